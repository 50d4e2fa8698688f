from __future__ import annotations

from mmkd.utils.settings import settings


def test_everything_in_dicts_lists_and_tuples_has_a_dotted_key() -> None:
    nested = dict(a=dict(b=[1, dict(c=None)]), d=('x',))
    assert dict(settings(nested, 'top')) == {
        'top.a': nested['a'],
        'top.a.b': nested['a']['b'],
        'top.a.b.0': 1,
        'top.a.b.1': dict(c=None),
        'top.a.b.1.c': None,
        'top.d': ('x',),
        'top.d.0': 'x',
    }
    assert [key for key, _ in settings(nested)][:2] == ['a', 'a.b']
    assert list(settings('text', 'key')) == []
