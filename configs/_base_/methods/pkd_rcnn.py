# PKD on the first four levels of the neck, P2 to P5, as published for Faster R-CNN R50 under R101.
pkd = dict(pkd=dict(type='mmkd.PKDLoss', weight=6.0, strides=[4, 8, 16, 32]))
