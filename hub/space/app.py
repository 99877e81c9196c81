"""The page of `vt-timm explore` as a Space of the Hugging Face Hub."""

import os

from vt_timm.explore.page import serve

if __name__ == "__main__":
    # The Space's variable VT_TIMM_SPACE_MODELS names other models than those that ship, with blanks between them.
    serve(os.environ.get("VT_TIMM_SPACE_MODELS", "").split() or None, host="0.0.0.0")
