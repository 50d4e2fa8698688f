# CKD on heads with focal loss. Nothing is published for these: the settings come from docs/benchmark.md.
ckd = dict(
    ckd=dict(
        type='mmkd.CKDLoss',
        weight=3.0,
        temperature=1.0,
        samples=dict(type='mmkd.TeacherTopK', k=64),
    )
)
