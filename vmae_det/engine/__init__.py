"""Training, evaluation and launching, for all tasks alike."""
