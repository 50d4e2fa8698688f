# PKD on the first four levels of the neck, P3 to P6, as published for RetinaNet R50 under X101. For other dense heads
# nothing is published with these settings: they are a starting point.
pkd = dict(pkd=dict(type='mmkd.PKDLoss', weight=10.0, strides=[8, 16, 32, 64]))
