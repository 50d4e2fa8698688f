# CWD on the maps of the neck as published for detectors (ICCV 2021): weight 10, temperature 10.
cwd = dict(cwd=dict(type='mmkd.CWDLoss', weight=10.0, temperature=10.0))
