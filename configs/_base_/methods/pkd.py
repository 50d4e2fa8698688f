# PKD on the maps of the neck. Published weights are 6 to 10.
pkd = dict(pkd=dict(type='mmkd.PKDLoss', weight=6.0))
