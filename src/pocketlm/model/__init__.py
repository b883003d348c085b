"""What stages share about models: shapes, checkpoints, cost, starts, loss, timing."""
