"""What a training may have beside the loss: penalties, pruning, noise, a teacher, an early end."""
