"""The folders that trainings leave on disk."""
