"""The folders that trainings leave on disk; `load_run` in train_run.py makes a model of one."""
