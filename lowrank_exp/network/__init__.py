"""What may be asked of any network: costs, shapes, modes, names, its state."""
