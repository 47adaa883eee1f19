"""What happens around training: prototype refresh, evaluation, timing, progress."""
