# AEKT (reconstructed, see docs/aekt.md) on heads with focal loss, on the student's positives. Nothing is published:
# alpha, beta and temperature are those of DKD for Faster R-CNN and no result of a search.
aekt = dict(
    aekt=dict(
        type='mmkd.AEKTLoss',
        weight=1.0,
        alpha=1.0,
        beta=0.25,
        temperature=1.0,
        gamma=1.0,
        r_max=4.0,
        non_target='nckd',
        samples=dict(type='mmkd.Positives'),
    )
)
