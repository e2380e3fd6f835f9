"""The plans of the vectors, and what the rules make of them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.vectors.driver import Json, Reference, do

__all__ = ["FOLDER", "texts"]

FOLDER = Path(__file__).parent
Steps = list[list[Json]]

QUEUES: dict[str, dict[str, Json]] = {
    "plain": {},
    "dedupes": {"dedupe_for": 10},
    "two tries": {"max_deliveries": 2},
    "two tries, dropped": {"max_deliveries": 2, "fate": "dropped"},
    "two tries, cannot be buried": {"max_deliveries": 2, "fate": "kept"},
    "rests": {"backoff": [4, 1, 4]},
}

# Another item is at its old place in front, with an older lease, and one is at the back.
FIRST: Steps = [["put", "y", 0], ["claim"]]
THEN: Steps = [["give_back", "y"], ["put", "z", 0]]
CLAIM = ["claim", {"key": "a"}]
SHORT = ["claim", {"key": "a", "lease": 2}]
SHORT_LEASE = ["claim", {"key": "a", "lease": 4}]

WAITING: dict[str, Steps] = {
    "absent": [],
    "acknowledged": [["put", "a", 1], CLAIM, ["ack", "a"]],
    "ready": [["put", "a", 1]],
    "ready, high": [["put", "a", 1, {"priority": 5}]],
    "ready, mortal": [["put", "a", 1, {"ttl": 5}]],
    "ready, cancelled": [["put", "a", 1], CLAIM, ["give_back", "a"]],
    "ready, lost once": [["put", "a", 1], SHORT, ["wait", 2]],
    "delayed": [["put", "a", 1, {"delay": 3}]],
    "delayed, mortal": [["put", "a", 1, {"delay": 3, "ttl": 5}]],
    "resting": [["put", "a", 1], CLAIM, ["release", "a", {"delay": 4}]],
}
LEASED: dict[str, Steps] = {
    "leased": [["put", "a", 1], CLAIM],
    "leased, again": [["put", "a", 1], CLAIM, ["release", "a", {"delay": 0}], CLAIM],
    "leased, lost once": [["put", "a", 1], SHORT, ["wait", 2], CLAIM],
    "leased, cancelled once": [["put", "a", 1], CLAIM, ["give_back", "a"], CLAIM],
    "leased, was mortal": [["put", "a", 1, {"ttl": 5}], CLAIM],
    "leased, updated": [["put", "a", 1], CLAIM, ["put", "a", 2, {"priority": 5}]],
    "leased, succeeded": [["put", "a", 1], CLAIM, ["put", "a", 2, {"if_in_flight": "buffer"}]],
    "leased, succeeded later": [
        ["put", "a", 1],
        CLAIM,
        ["put", "a", 2, {"if_in_flight": "buffer", "delay": 3, "ttl": 6, "priority": 5}],
    ],
}
CANCELLED: dict[str, Steps] = {
    "cancelled": [["put", "a", 1], SHORT_LEASE, ["cancel", "a"]],
    "cancelled, was updated": [*LEASED["leased, updated"], ["cancel", "a"]],
    "cancelled, was succeeded": [*LEASED["leased, succeeded"], ["cancel", "a"]],
    "cancelled, is succeeded": [
        *LEASED["leased, succeeded later"],
        ["cancel", "a", {"keep_successor": True}],
    ],
}
PUTS: Steps = [
    ["put", "a", 9],
    ["put", "a", 9, {"delay": 2}],
    ["put", "a", 9, {"delay": 2, "reschedule": "latest"}],
    ["put", "a", 9, {"reschedule": "latest"}],
    ["put", "a", 9, {"ttl": 4}],
    ["put", "a", 9, {"priority": 5}],
    ["put", "a", 9, {"priority": 1}],
    ["put", "a", 9, {"if_in_flight": "buffer"}],
    ["put", "a", 9, {"if_in_flight": "buffer", "delay": 2, "ttl": 4}],
    ["put", "a", 9, {"if_in_flight": "buffer", "delay": 5, "reschedule": "latest"}],
    ["put", "a", 9, {"if_in_flight": "reject"}],
    ["put", "a", 9, {"tenant": "t"}],
]
TIMES: Steps = [["wait", 3], ["wait", 5], ["drain"], ["discard", "a"], ["cancel", "a"]]
CANCELS: Steps = [["cancel", "a"], ["cancel", "a", {"keep_successor": True}]]
FAILURES: list[Steps] = [
    [["release", "a"]],
    [["fail", "a"]],
    [["reject", "a", {"reason": "bad"}]],
    [["extend", "a", 1], ["wait", 1]],
    [["release_all"]],
]
ENDS: list[Steps] = [
    [["ack", "a"]],
    *FAILURES,
    [["release", "a", {"front": True}]],
    [["release", "a", {"delay": 2}]],
    [["release", "a", {"counted": False}]],
    [["release", "a", {"counted": False, "delay": 2}]],
    [["give_back", "a"]],
    [["undo", "a"]],
    [["close"]],
]


STATES = WAITING | LEASED | CANCELLED


def take(queue: dict[str, Json], steps: Steps) -> tuple[Reference, list[Json]]:
    """Take steps; the engine then, and what each returned."""
    engine = Reference()
    engine.open(queue)
    return engine, [do(engine, step) for step in steps]


def move_cases() -> Iterator[dict[str, Json]]:
    """Each state and each event, for the queues where it makes a difference."""

    for state in WAITING:
        queue = "dedupes" if state == "acknowledged" else "plain"
        for event in [*PUTS, *TIMES]:
            yield {"queue": queue, "state": state, "events": [event]}
    for state in LEASED:
        for event in PUTS:
            yield {"queue": "plain", "state": state, "events": [event]}
        for events in [*ENDS, [["discard", "a"]], *[[each] for each in CANCELS]]:
            yield {"queue": "plain", "state": state, "events": events}
        for queue in QUEUES:
            if queue.startswith("two tries"):
                for events in FAILURES if "dropped" in queue or "cannot" in queue else ENDS:
                    yield {"queue": queue, "state": state, "events": events}
        for events in [*FAILURES, [["release", "a", {"counted": False}]]]:
            yield {"queue": "rests", "state": state, "events": events}
    for state in CANCELLED:
        for event in [*PUTS, *CANCELS, ["discard", "a"], ["wait", 4], ["drain"]]:
            yield {"queue": "plain", "state": state, "events": [event]}
        for queue in ("plain", "dedupes", "two tries"):
            for events in ENDS:
                yield {"queue": queue, "state": state, "events": events}
    for queue in QUEUES:
        if "dropped" in queue or "cannot" in queue:
            yield {"queue": queue, "state": "ready, mortal", "events": [["wait", 5]]}
            yield {"queue": queue, "state": "delayed, mortal", "events": [["wait", 5]]}


def written_move(case: dict[str, Json]) -> dict[str, Json]:
    given = FIRST + STATES[case["state"]] + THEN
    engine, answers = take(QUEUES[case["queue"]], given + case["events"])
    if case["events"][0][0] in ("put", "discard", "cancel"):
        case["outcome"] = answers[-1]
    case["then"] = engine.see("a")
    if case["queue"] == "rests" and case["then"] and "rests_until" in case["then"]:
        case["rests"] = "at most"  # the rest is drawn
    case["line"] = engine.line()
    case["letters"] = engine.letters()
    case["counts"] = engine.counts()
    return case


def plan(*steps: list[Json], **queue: Json) -> dict[str, Json]:
    return {"queue": queue, "steps": [*steps]}


def puts(keys: str) -> Steps:
    """Put keys, each for the tenant that its first letter is."""
    return [["put", key, 1, {"tenant": key[0]}] for key in keys.split()]


def claims(number: int, **options: Json) -> Steps:
    return [["claim", options] if options else ["claim"] for _ in range(number)]


def turn_plans() -> dict[str, dict[str, Json]]:
    """Sequences of puts, hand-outs and ends."""
    plans = {
        "ties go by arrival, not by name": plan(*puts("z1 a1 z2 a2"), *claims(4)),
        "a tie goes to the tenant whose next item arrived first": plan(
            *puts("b1 c1 a1 c2 b2 a2"), *claims(6)
        ),
        "the next item counts, not the newest": plan(
            *puts("b1 a1 b2"), *claims(1), *puts("a2"), *claims(3)
        ),
        "an item at the front is before all others": plan(
            *puts("a1 b1 c1"), *claims(2), ["release", "b1", {"front": True}], *claims(3)
        ),
        "an item at its old place is before those at the back": plan(
            *puts("a1 b1 a2 b2"), *claims(2), ["give_back", "b1"], *claims(3)
        ),
        "twice the weight, twice the turns": plan(
            *puts("x1 y1 x2 y2 x3 y3 x4 y4"), *claims(8), tenants={"x": [2, None]}
        ),
        "half the weight, half the turns": plan(
            *puts("x1 y1 x2 y2 x3 y3 x4 y4"), *claims(8), tenants={"x": [0.5, None]}
        ),
        "idling earns no credit": plan(
            *puts("x1 y1 x2 x3 x4 x5"), *claims(4), *puts("y2 y3 y4"), *claims(5)
        ),
        "one who is ahead and idles is still ahead": plan(
            *puts("x1 x2"), *claims(2, tenants=["x"]), ["ack", "x1"], ["ack", "x2"],
            *puts("y1 x3 y2 x4 y3"), *claims(5),
        ),
        "a cap is kept, and the end of a lease makes room": plan(
            *puts("x1 x2 x3 y1 y2 y3"), *claims(3), ["ack", "x1"], *claims(3),
            tenants={"x": [1, 1]},
        ),
        "coming under a cap earns no credit": plan(
            *puts("x1 x2 x3 x4 y1 y2 y3 y4"), *claims(4), ["ack", "x1"],
            ["set_tenant", "x", 1, None], *claims(4), tenants={"x": [1, 1]},
        ),
        "who asks for some tenants gets fair turns between them": plan(
            *puts("b1 a1 c1 b2 a2 c2"), *claims(4, tenants=["a", "b"]), *claims(2)
        ),
        "who asks for some tenants does not make a newcomer wait": plan(
            *puts("x1 x2 x3 x4"), *claims(3, tenants=["x"]), *puts("n1"), *claims(2)
        ),
        "a key that is taken is charged": plan(
            *puts("x1 x2 y1 y2"), ["claim", {"key": "x2"}], *claims(3)
        ),
        "priority is within a tenant": plan(
            ["put", "a1", 1, {"tenant": "a"}], ["put", "b1", 1, {"tenant": "b", "priority": 6}],
            ["put", "a2", 1, {"tenant": "a", "priority": 6}], *claims(3),
        ),
        "a paused tenant has no turn, and gets no credit for that": plan(
            *puts("x1 x2 x3 x4 x5 y1 y2 y3 y4 y5 y6"), *claims(2), ["pause", "x"], *claims(3),
            ["resume", "x"], *claims(6),
        ),
        "nothing of a paused tenant is had by its name or by a key": plan(
            *puts("x1 x2 y1 y2"), ["pause", "x"], ["claim", {"key": "x1"}],
            *claims(1, tenants=["x"]), *claims(2, tenants=["x", "y"]), ["resume", "x"], *claims(2),
        ),
        "a tenant is paused before it comes, and before there are tenants": plan(
            ["put", "n1", 1], ["put", "n2", 1], ["pause", "x"], *claims(1),
            *puts("x1 y1 x2 y2"), *claims(4), ["resume", "x"], *claims(2),
        ),
        "a paused tenant under a cap is under it once more when it goes on": plan(
            *puts("x1 x2 x3 y1 y2"), *claims(1), ["pause", "x"], ["set_tenant", "x", 1, 1],
            ["ack", "x1"], *claims(2), ["resume", "x"], *claims(2),
            tenants={"x": [1, 2]},
        ),
        "leases of a paused tenant come back, and are not handed out": plan(
            *puts("x1 x2 y1"), *claims(2, tenants=["x"]), ["pause", "x"], ["release", "x1"],
            ["give_back", "x2"], *claims(2), ["resume", "x"], *claims(2),
        ),
        "nothing of a paused queue is had, and its turns stay": plan(
            *puts("x1 y1 x2 y2"), *claims(1), ["pause", None], *claims(1), ["claim", {"key": "y1"}],
            *claims(1, tenants=["y"]), *puts("z1"), ["resume", None], *claims(4),
        ),
        "a queue and its tenants are paused apart": plan(
            *puts("x1 y1 y2"), ["pause", None], ["pause", "x"], *claims(1), ["resume", None],
            *claims(3), ["resume", "x"], *claims(1),
        ),
        "items without a tenant are paused with the queue alone": plan(
            *puts("x1"), ["pause", None], ["pause", "x"], ["put", "n1", 1], *puts("x2"),
            ["put", "n2", 1], *claims(1), ["resume", None], *claims(3), ["resume", "x"], *claims(2),
        ),
        "a queue without tenants is paused": plan(
            ["put", "a", 1], ["put", "b", 1], *claims(1), ["pause", None], *claims(1),
            ["claim", {"key": "b"}], ["release", "a", {"front": True}], ["put", "c", 1],
            ["resume", None], *claims(3),
        ),
        "what was there before the first tenant is nobody's in particular": plan(
            ["put", "n1", 1], ["put", "n2", 1], ["put", "n3", 1], *claims(1),
            *puts("a1 a2 a3"), *claims(5),
        ),
    }  # fmt: skip
    for seed in range(24):
        plans[f"random, {seed}"] = random_turns(random.Random(seed))
    for seed in range(100, 116):
        plans[f"random with pauses, {seed}"] = random_turns(random.Random(seed), pauses=True)
    return plans


def random_turns(chance: random.Random, *, pauses: bool = False) -> dict[str, Json]:
    tenants = {
        name: [chance.choice([0.5, 1, 1, 1, 2, 4]), chance.choice([None, None, 1, 2])]
        for name in "xy"
    }
    queue = {"tenants": tenants} if chance.random() < 0.6 else {}
    steps: Steps = []
    engine = Reference()
    engine.open(queue)
    for number in range(30):
        leased = sorted(engine.leases)
        roll = chance.random()
        if pauses and chance.random() < 0.2:
            step: list[Json] = [
                chance.choice(["pause", "resume", "resume"]), chance.choice([None, *"xxyw"])
            ]  # fmt: skip
        elif roll < 0.4:
            tenant = chance.choice("xyzw")
            priority = chance.choice([None, None, None, 5])
            terms = {"tenant": tenant} | ({"priority": priority} if priority else {})
            step = ["put", f"{tenant}{number}", 1, terms]
        elif roll < 0.72 or not leased:
            some = sorted(chance.sample("wxyz", 2))
            step = ["claim", {"tenants": some}] if chance.random() < 0.2 else ["claim"]
        else:
            how = chance.choice(["ack", "ack", "release", "give_back", "undo"])
            step = [how, chance.choice(leased)]
        do(engine, step)
        steps.append(step)
    return {"queue": queue, "steps": steps}


def due_plans() -> dict[str, dict[str, Json]]:
    """What falls due in one step."""
    delayed: Steps = [["put", key, 1, {"delay": 2}] for key in "cab"]
    lease = {"lease": 2}
    three: Steps = [["put", key, 1] for key in "cab"]
    return {
        "what was put with one delay comes in the order of the puts": plan(
            *delayed, ["wait", 2], *claims(3)
        ),
        "what falls due earlier comes first": plan(
            ["put", "c", 1, {"delay": 3}], ["put", "a", 1, {"delay": 2}],
            ["put", "b", 1, {"delay": 3}], ["wait", 4], *claims(3),
        ),
        "a put on a delayed item keeps its place": plan(
            *delayed, ["put", "c", 2, {"delay": 2}], ["put", "a", 2, {"delay": 5}], ["wait", 2],
            *claims(3),
        ),
        "a debounced item keeps its place among those due with it": plan(
            ["put", "c", 1, {"delay": 1}], ["put", "a", 1, {"delay": 2}],
            ["put", "c", 2, {"delay": 2, "reschedule": "latest"}], ["wait", 2], *claims(2),
        ),
        "leases that expire together come back in the order of their hand-outs": plan(
            *three, *claims(3, **lease), ["wait", 2], *claims(3)
        ),
        "leases that die together do so in the order of their hand-outs": plan(
            *three, *claims(3, **lease), ["wait", 2], max_deliveries=1
        ),
        "leases that are lost again together rest no longer than each other": plan(
            *three, *claims(3, **lease), ["wait", 2], *claims(3, **lease), ["wait", 2], *claims(3)
        ),
        "an extended lease keeps its place among those that expire with it": plan(
            *three, *claims(3, **lease), ["extend", "c", 5], ["extend", "c", 2], ["wait", 2],
            max_deliveries=1,
        ),
        "leases without end that are released together die by their hand-outs": plan(
            *three, *claims(3), ["release_all"], max_deliveries=1
        ),
        "leases without end that are released together return by their hand-outs": plan(
            *three, *claims(3), ["release_all"], *claims(3)
        ),
        "leases come before what waits": plan(
            ["put", "a", 1], ["put", "b", 1, {"delay": 2}], ["claim", lease], ["wait", 2],
            ["put", "c", 1], *claims(3), max_deliveries=2,
        ),
        "times to live that end together do so in the order of the puts": plan(
            *[["put", key, 1, {"ttl": 2}] for key in "cab"], ["wait", 2]
        ),
        "a time to live that is given anew keeps its place": plan(
            *[["put", key, 1, {"ttl": 2}] for key in "cab"], ["put", "c", 2, {"ttl": 2}],
            ["wait", 2],
        ),
        "a time to live that is given later counts from then": plan(
            ["put", "a", 1], ["put", "b", 1, {"ttl": 2}], ["put", "a", 2, {"ttl": 2}], ["wait", 2]
        ),
        "rests that end together do so in the order in which they began": plan(
            *three, *claims(3), ["release", "b", {"delay": 2}], ["release", "c", {"delay": 2}],
            ["release", "a", {"delay": 2}], ["wait", 2], *claims(3),
        ),
        "successors that were put with a delay come by the ends of the leases": plan(
            *three, *claims(3),
            *[["put", key, 2, {"if_in_flight": "buffer", "delay": 2}] for key in "abc"],
            ["ack", "b"], ["ack", "a"], ["ack", "c"], ["wait", 2], *claims(3),
        ),
        "items of several tenants that fall due together arrive in the order of the puts": plan(
            *[["put", key, 1, {"delay": 2, "tenant": key[0]}] for key in ("z1", "a1", "z2", "a2")],
            ["wait", 2], *claims(4),
        ),
    }  # fmt: skip


def written_plan(name: str, made: dict[str, Json]) -> dict[str, Json]:
    """A plan with what each claim gives, and what died."""
    engine, answers = take(made["queue"], made["steps"])
    gives = [
        answer for step, answer in zip(made["steps"], answers, strict=True) if step[0] == "claim"
    ]
    return {"name": name, **made, "claims": gives, "letters": engine.letters()}


def lines(cases: list[dict[str, Json]]) -> str:
    """A JSON array with one case a line."""
    return "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n"


def texts() -> dict[str, str]:
    """The files, by name."""
    states: dict[str, Any] = {name: FIRST + steps + THEN for name, steps in STATES.items()}
    moves = lines([written_move(case) for case in move_cases()])
    parts = [
        f'"{what}": {json.dumps(table, indent=None)}'
        for what, table in (("queues", QUEUES), ("states", states))
    ]
    return {
        "moves.json": "{" + ",\n".join([*parts, f'"cases": {moves}']) + "}\n",
        "turns.json": lines([written_plan(*each) for each in turn_plans().items()]),
        "due.json": lines([written_plan(*each) for each in due_plans().items()]),
    }
