"""CKD in a plain PyTorch loop, with `mmkd.functional` alone: `python examples/plain_pytorch.py`."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

from mmkd.functional import ckd_loss

TRAINING_IMAGES = 1287  # whole forms: at most one writer of the other images is among these


def network(width):
    """A small classifier of 8x8 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10),
    )  # fmt: skip


def train(model, images, labels, epochs, teacher=None, weight=10.0, temperature=1.0):
    """An ordinary loop; only what is indented under `teacher is not None` distils."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(images)).split(64):
            logits = model(images[batch])
            loss = F.cross_entropy(logits, labels[batch])
            if teacher is not None:
                with torch.no_grad():
                    teacher_logits = teacher(images[batch])
                loss = loss + weight * ckd_loss(logits, teacher_logits, temperature=temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    return model.eval()


def main(epochs=10):
    """Train a teacher, a plain student and a CKD student; return their top-1 accuracy by name."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(digits.target)
    seen, new = slice(None, TRAINING_IMAGES), slice(TRAINING_IMAGES, None)

    torch.manual_seed(0)
    teacher = train(network(32), images[seen], labels[seen], 2 * epochs)
    models = {'teacher': teacher}
    for name, guide in (('plain student', None), ('CKD student', teacher)):
        torch.manual_seed(1)  # both students start alike and see the same batches
        models[name] = train(network(4), images[seen], labels[seen], epochs, guide)
    with torch.no_grad():
        right = {
            name: model(images[new]).argmax(1) == labels[new] for name, model in models.items()
        }
    for name, answers in right.items():
        print(f'{name}: {100 * answers.float().mean():.1f} % of {len(answers)} new digits')
    return {name: 100 * answers.float().mean().item() for name, answers in right.items()}


if __name__ == '__main__':
    main()
