"""What a stranger's model folder holds, looked at before any library reads it."""
