"""The page of `vt-timm explore` as a Space of the Hugging Face Hub."""

import os

from vt_timm.photos.explore import serve

if __name__ == "__main__":
    # Other models, such as a segmenter's repository: in the Space's variable VT_TIMM_SPACE_MODELS, blanks between them.
    serve(os.environ.get("VT_TIMM_SPACE_MODELS", "vt_resnet18 vt_resnet_micro").split(), host="0.0.0.0", port=7860)
