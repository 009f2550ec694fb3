"""What a file of a network holds, looked through before anything is built of it."""
