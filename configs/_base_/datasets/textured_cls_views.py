# The same for trainings of a comparison: every method and seed sees the same two views of each image, and one store of the teacher's
# outputs serves them all.
_base_ = './textured_cls.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmkd.SeededViews',
        views=2,
        seed=0,
        dataset={{_base_.train_dataloader.dataset}},
    )
)
