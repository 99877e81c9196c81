"""Names of what a training run leaves on disk."""

BEST, LAST = "best", "last"  # folders of train-segmenter, and what --checkpoint takes of timm's train.py
SETTINGS, ARGUMENTS = "settings.yaml", "args.yaml"  # of train-segmenter, and of train.py
SUMMARY, METRICS = "summary.csv", "metrics.json"

CHECKPOINT = ".pth.tar"  # the ending of one of train.py
CHECKPOINTS = {BEST: f"model_best{CHECKPOINT}", LAST: f"last{CHECKPOINT}"}
