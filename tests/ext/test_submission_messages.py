"""Readers say what protobuf says, or nothing; writers write what protobuf writes."""

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError

from runtime import wire
from runtime._ext.submission_messages import news_bytes, plain_news, plain_submission, submission_bytes

_v1 = wire.runtime_v1
NUMBERS = (0, 1, 127, 128, 300, 1 << 40, (1 << 64) - 1)
KEYS = ("", "k", "task-1", "schlüssel", "\N{GRINNING FACE}", "x" * 200)
VALUES = (b"", b"1", b"\x00" * 127, b"v" * 128, b"w" * 20_000)
MUTATIONS = 400


def _news(answers: list[int], results: list[tuple[int, str, bytes]]) -> wire.runtime_v1.SubmissionNews:
    news = _v1.SubmissionNews()
    for number in answers:
        news.answer.add(number=number)
    for number, key, value in results:
        entry = news.result.add(number=number)
        entry.result.key, entry.result.status, entry.result.num_bytes = key, "COMPLETED", len(value)
        entry.result.value = value
    return news


def _damaged(data: bytes, chance: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(mutant) or 1)
        kind = chance.random()
        if kind < 0.5 and mutant:
            mutant[at] = chance.choice((0, 1, 8, 10, 16, 18, 24, 26, 32, 34, 127, 128, 255, chance.randrange(256)))
        elif kind < 0.7:
            del mutant[at : at + chance.randint(1, 4)]
        elif kind < 0.9:
            mutant[at:at] = chance.randbytes(chance.randint(1, 4))
        else:
            mutant += mutant[:at]
    return bytes(mutant)


@pytest.mark.parametrize("seed", range(20))
def test_submissions(seed: int) -> None:
    chance = random.Random(seed)
    fields = (
        chance.choice(NUMBERS), chance.choice(VALUES), chance.random() < 0.5, chance.choice((0, 1, 65536, 0xFFFFFFFF))
    )
    number, request, tells_results, inline_bytes = fields
    message = _v1.Submission(number=number, request=request, tells_results=tells_results, inline_bytes=inline_bytes)
    data = submission_bytes(*fields)
    assert data == message.SerializeToString()
    assert plain_submission(data) == fields
    for _ in range(MUTATIONS):
        mutant = _damaged(data, chance)
        found = plain_submission(mutant)
        if found is not None:
            told = _v1.Submission.FromString(mutant)
            assert found == (told.number, told.request, told.tells_results, told.inline_bytes)


@pytest.mark.parametrize("seed", range(20))
def test_news(seed: int) -> None:
    chance = random.Random(seed)
    answers = [chance.choice(NUMBERS) for _ in range(chance.randint(0, 3))]
    results = [
        (chance.choice(NUMBERS), chance.choice(KEYS), chance.choice(VALUES)) for _ in range(chance.randint(0, 3))
    ]
    data = news_bytes(answers, results)
    assert data == _news(answers, results).SerializeToString()
    assert plain_news(data) == (answers, results)
    for _ in range(MUTATIONS):
        mutant = _damaged(data, chance)
        found = plain_news(mutant)
        if found is not None:
            told = _v1.SubmissionNews.FromString(mutant)
            assert found[0] == [answer.number for answer in told.answer]
            assert found[1] == [(one.number, one.result.key, one.result.value) for one in told.result]
            assert all(one.result.status == "COMPLETED" and one.result.HasField("value") for one in told.result)
            assert not any(answer.code or answer.message or answer.refused_id for answer in told.answer)


@pytest.mark.parametrize(
    "change",
    [
        lambda news: news.answer.add(number=3, code=5),
        lambda news: news.answer.add(number=3, message="why"),
        lambda news: news.answer.add(number=3, refused_id=["a"]),
        lambda news: news.result.add(number=3),
        lambda news: news.result.add(number=3).result.MergeFrom(_v1.CollectedResult(key="k", status="COMPLETED")),
        lambda news: news.result.add(number=3).result.MergeFrom(
            _v1.CollectedResult(key="k", status="ABORTED", value=b"1")
        ),
        lambda news: news.result.add(number=3).result.MergeFrom(
            _v1.CollectedResult(key="k", status="COMPLETED", value=b"1", error="no")
        ),
    ],
)
def test_news_of_anything_else_is_left_to_protobuf(change: object) -> None:
    news = _news([1], [(2, "k", b"v")])
    assert callable(change)
    change(news)
    assert plain_news(news.SerializeToString()) is None


def test_broken_text_and_unknown_fields_are_left_to_protobuf() -> None:
    data = news_bytes([], [(1, "k", b"v")])
    broken = data.replace(b"\x0a\x01k", b"\x0a\x01\xff")
    assert plain_news(broken) is None
    with pytest.raises(DecodeError):
        _v1.SubmissionNews.FromString(broken)
    assert plain_submission(submission_bytes(1, b"x", False, 0) + b"\x50\x01") is None
    assert plain_submission(b"\x18\x02") is None
    assert plain_news(b"\x1a\x00") is None
