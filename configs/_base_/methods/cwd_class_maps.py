# CWD on the class logits of dense heads with the settings published for segmentation's logits (ICCV 2021): weight 2,
# temperature 5. On detection heads nothing is published.
cwd_class_maps = dict(
    cwd_class_maps=dict(type='mmkd.CWDLoss', at='class_maps', weight=2.0, temperature=5.0)
)
