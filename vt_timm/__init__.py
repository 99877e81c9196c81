from . import vt_resnet
