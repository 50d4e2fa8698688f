# CKD on heads with focal loss. Nothing is published for these: the settings come from docs/does_it_help.md.
ckd = dict(
    ckd=dict(
        type='mmkd.CKDLoss',
        weight=1.0,
        temperature=1.0,
        samples=dict(type='mmkd.PositivesAndTeacherTopK', k=64),
    )
)
