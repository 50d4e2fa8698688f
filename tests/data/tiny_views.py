"""The tiny distillation with all that has a state, on seeded views."""

_base_ = './tiny_resume.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmkd.SeededViews',
        dataset={{_base_.train_dataloader.dataset}},
        views=3,
    )
)
