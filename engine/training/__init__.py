"""The training loop and what it needs: checkpoints, EMA, optimizers, schedules, logging."""
