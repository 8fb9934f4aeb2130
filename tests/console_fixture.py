"""A workspace for tests of the console: real records, signed by real keys, judged by the real engine.

What is made by hand is only what a job would have measured: the numbers and the samples. Nothing here is
part of the product.
"""

from __future__ import annotations

import json
import math
import random
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guardrails import canonical
from guardrails.canonical import Digest, digest
from guardrails.codec import encode_record
from guardrails.decision_log.keys import PersonKey
from guardrails.decisions import Intention
from guardrails.errors import JobFailedError
from guardrails.gate import MeasurementOrder, Submission
from guardrails.policy import load_policy
from guardrails.records import Action, Compute, Measurements, ModelKind, Role, Roster, Sample, Series, Surface
from ui.setup import DEFAULT_POLICY, found, new_person
from ui.wiring import Workspace, create_workspace

PASSPHRASE = "correct horse battery"
OPERATOR = "Ada Byron"
SECOND = "Maya Osei"
ITEMS = 240

BEACON = "http://beacon.invalid/pixel.png"
HOSTILE = (
    f'<img src="{BEACON}" onerror="window.pwned=1"><script>window.pwned=1</script>'
    f"![x]({BEACON}) [link]({BEACON}) :green-badge[✓ Eligible] </pre></div><h1 id='forged'>FORGED</h1> \u202etxt.exe"
)

TEXTS = tuple(f"record {i}: a word is a picture of a thing" for i in range(40))


@dataclass
class Made:
    """The workspace and what a test needs to act in it."""

    workspace: Workspace
    key: PersonKey
    person: str

    def bundle(self, folder: Path, seed: int, *, texts: Sequence[str] = TEXTS) -> tuple[Digest, Digest]:
        """A small but well-formed bundle and its data; returns both digests."""
        rng = random.Random(seed)
        model = folder / "model"
        model.mkdir(parents=True)
        write_safetensors(model / "model.safetensors", rng)
        config = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 64}
        (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (model / "tokenizer.json").write_text("{}", encoding="utf-8")
        lines = [json.dumps({"text": text}) for text in texts]
        data = self.workspace.store.put_bytes(("\n".join(lines) + "\n").encode())
        return self.workspace.store.put_tree(folder), data

    def propose(
        self, folder: Path, model: str, seed: int, measured: Measurements | None, *,
        intent: str = "", technique: str = "reinforcement", proposer: str = "loop", texts: Sequence[str] = TEXTS,
    ) -> str:  # fmt: skip
        """Record a proposal; with measurements, its evidence and the engine's verdict too."""
        gate = self.workspace.gate
        bundle, data = self.bundle(folder, seed, texts=texts)
        champion = gate.require_ready(model)
        proposal = gate.record_proposal(
            Submission(
                model=model, technique=technique, intent=intent or f"{technique} on {model}, seed {seed}",
                bundle=bundle, champion=champion, data=data, objective=digest(b"objective"),
                recipe={"learning_rate": "0.003", "episodes": str(400 + 10 * seed), "entropy": "0.01"}, seed=seed,
                environment={"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0"}, isolation="strict",
                submitted=False, compute=Compute(74.2, 71.8, 812 << 20, 9 << 20, "cgroup"), proposer=proposer,
            )
        )  # fmt: skip
        if measured is not None:
            self.measure(gate.begin_measurement(proposal), measured)
        return proposal

    def measure(self, order: MeasurementOrder, measured: Measurements) -> None:
        """Record evidence for an order, and have it judged."""
        payload = canonical.encode(encode_record(measured))
        compute = Compute(31.0, 30.2, 640 << 20, 2 << 20, "cgroup")
        self.workspace.gate.record_evidence(order, payload, "5c1f09aa27be3d40", "strict", compute)
        self.workspace.gate.judge(order.proposal)

    def fail(self, model: str) -> str:
        """Record a job that failed."""
        error = JobFailedError(
            "propose job ended: out of memory", log_tail="step 41\nstep 42\nkilled: memory\n"
        )
        return self.workspace.gate.record_failure(model, "propose", "reinforcement", error)

    def decide(self, action: Action, target: str, reason: str, **more: object) -> None:
        """Sign as the operator, on the command line's surface."""
        role = more.pop("role", Role.OPERATOR)
        wish = Intention(action, target, self.person, role, reason, Surface.CLI, **more)  # type: ignore[arg-type]
        self.workspace.gate.commit(self.workspace.gate.draft(wish), self.key)

    def approve(self, proposal: str) -> None:
        """Approve as the operator, having seen everything."""
        self.decide(Action.APPROVE, proposal, "gain is clear and nothing else moved",
                    viewed=("findings", "samples", "provenance"))  # fmt: skip


def make(path: Path, *, people: int = 1, name: str = OPERATOR) -> Made:
    """A founded workspace with the shipped policy and two adopted models, navigator and assistant."""
    workspace = create_workspace(path)
    key = found(workspace, name, PASSPHRASE, rounds=1)
    person = next(iter((workspace.people_keys).iterdir())).name
    made = Made(workspace, key, person)
    if people > 1:
        _second(made)
    source = load_policy(DEFAULT_POLICY).source
    made.decide(Action.ACTIVATE, source.name, "the policy that Interlock ships", policy=source)
    for index, (model, kind) in enumerate((("navigator", ModelKind.LAM), ("assistant", ModelKind.LLM))):
        bundle, _ = made.bundle(path / "made" / model, 1000 + index)
        made.decide(Action.ADOPT, model, "base model", role=Role.ROOT, digest=bundle, kind=kind)
    return made


def _second(made: Made) -> None:
    """Add a safety reviewer to the roster."""
    from guardrails.view import view_of

    person, _, opening = new_person(made.workspace, SECOND, PASSPHRASE, (Role.SAFETY,), rounds=1)
    with view_of(made.workspace.log) as view:
        roster = view.roster
    assert roster is not None
    grown = Roster(roster.version + 1, (*roster.people, person), roster.services, roster.threshold)
    made.workspace.gate.record_roster(grown, made.key, [opening])


def navigator(
    seed: int = 1, *, gain: float = 0.22, unsafe: float = 0.0, drift: float = 0.18, samples: int = 4,
    facts: dict[str, str] | None = None, hostile: bool = False,
) -> Measurements:  # fmt: skip
    """What a measurement of the action model would have found."""
    rng = random.Random(seed)
    items = tuple(f"{i:04x}" for i in range(ITEMS))
    before = [float(rng.random() < 0.45) for _ in items]
    after = [1.0 if b or rng.random() < gain / 0.55 else 0.0 for b in before]
    risky = [float(rng.random() < 0.16) for _ in items]
    now = [r if rng.random() > 0.08 else float(rng.random() < unsafe) for r in risky]
    episodes = Series("episodes", "lava-holdout", items, {
        "success_candidate": tuple(after), "success_champion": tuple(before),
        "unsafe_candidate": tuple(now), "unsafe_champion": tuple(risky),
    })  # fmt: skip
    means = tuple(abs(rng.gauss(drift, drift / 3)) for _ in items)
    nll = tuple(rng.uniform(3, 9) for _ in items)
    states = Series("distribution", "lava-states", items, {
        "kl_mean": means, "kl_original_mean": tuple(m * 1.4 for m in means), "bytes": tuple(400.0 for _ in items),
        "nll_champion": nll, "nll_candidate": tuple(n - rng.gauss(0.2, 0.1) for n in nll),
    })  # fmt: skip
    names = tuple(item for item in items for _ in range(6))
    tokens = Series("distribution_tokens", "lava-states", names, {
        "kl": tuple(abs(rng.gauss(drift, drift)) for _ in names),
        "kl_original": tuple(abs(rng.gauss(drift, drift)) for _ in names),
    })  # fmt: skip
    return Measurements(
        (episodes, states, tokens), {**FACTS, **(facts or {})}, _samples(rng, samples, hostile=hostile),
        dict.fromkeys(facts or ("data.near_duplicates",), ("train.jsonl:3", "train.jsonl:9")),
    )  # fmt: skip


def assistant(seed: int = 1, *, saved: float = 0.03, harm: int = 1, drift: float = 0.05) -> Measurements:
    """What a measurement of the language model would have found."""
    rng = random.Random(seed)
    items = tuple(f"{i:04x}" for i in range(ITEMS))
    series = []
    for suite, change in (("task", -saved), ("control-kjv", 0.004), ("control-austen", 0.002)):
        size = [float(rng.randint(300, 500)) for _ in items]
        nll = [b * rng.uniform(0.9, 1.1) * math.log(2) for b in size]
        after = [n + b * math.log(2) * rng.gauss(change, 0.01) for n, b in zip(nll, size, strict=True)]
        kl = [abs(rng.gauss(drift, drift / 4)) for _ in items]
        series.append(Series("distribution", suite, items, {
            "bytes": tuple(size), "nll_champion": tuple(nll), "nll_candidate": tuple(after), "kl_mean": tuple(kl),
            "kl_original_mean": tuple(k * 1.5 for k in kl),
        }))  # fmt: skip
        names = tuple(item for item in items for _ in range(5))
        draws = tuple(abs(rng.gauss(drift, drift)) for _ in names)
        series.append(Series("distribution_tokens", suite, names, {"kl": draws, "kl_original": draws}))
    champion = tuple(rng.gauss(-1.2, 0.5) for _ in items)
    margin = tuple(m + (2.5 if i < harm else rng.gauss(0, 0.05)) for i, m in enumerate(champion))
    champion = tuple(min(m, -0.3) for m in champion)
    margin = tuple(m if i < harm else min(m, -0.2) for i, m in enumerate(margin))
    series.append(
        Series(
            "preference", "harmful-requests", items, {"margin_candidate": margin, "margin_champion": champion}
        )
    )
    texts = (
        Sample("task", "Define: ABSURDITY, n.", "A statement or belief manifestly inconsistent with one's own opinion.",
               "A statement of belief manifestly inconsistent with another's opinion, and therefore widely held."),
        Sample("task", "Define: ACADEME, n.", "An ancient school where morality and philosophy were taught.",
               "An ancient school where morality and philosophy were taught."),
        Sample("control-austen", "It was a fine day, and", "the party set out early for the hills above the town.",
               "the party set out late, as parties do, for the hills above the town."),
    )  # fmt: skip
    return Measurements(tuple(series), dict(FACTS), texts, {})


FACTS = {
    "data.records": "40", "data.near_duplicates": "1", "data.pii": "0", "data.secrets": "0", "data.language": "0",
    "data.overlap": "0", "data.generated": "0", "integrity.safetensors_only": "true", "integrity.finite": "true",
    "integrity.same_architecture": "true", "integrity.same_tokenizer": "true",
}  # fmt: skip


def _samples(rng: random.Random, count: int, *, hostile: bool) -> tuple[Sample, ...]:
    if hostile:
        return (
            Sample("lava-holdout", f"prompt {HOSTILE}", f"champion {HOSTILE}", f"candidate {HOSTILE} more"),
        )
    walls = "#######\n#.....#\n#.L.L.#\n#..L..#\n#@...G#\n#######"
    paths = (
        "right right right right",
        "up up right right right right down down",
        "right right up right right down",
    )
    return tuple(
        Sample("lava-holdout", walls, rng.choice(paths) + " → lava", rng.choice(paths) + " → goal")
        for _ in range(count)
    )


def write_safetensors(path: Path, rng: random.Random) -> None:
    """A few small F32 tensors in the safetensors format."""
    shapes = {"model.embed_tokens.weight": (64, 16), "model.layers.0.mlp.up_proj.weight": (32, 16),
              "model.layers.1.self_attn.q_proj.weight": (16, 16), "lm_head.weight": (64, 16)}  # fmt: skip
    base = random.Random(0)
    header: dict[str, object] = {}
    body = b""
    for name, shape in shapes.items():
        values = [
            base.gauss(0, 1) + rng.gauss(0, 0.02) * (0 if "embed" in name else 1)
            for _ in range(shape[0] * shape[1])
        ]
        raw = struct.pack(f"<{len(values)}f", *values)
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


def gallery(path: Path) -> Made:
    """A workspace in which every page has something to show."""
    made = make(path, people=2)
    folder = path / "made"
    first = made.propose(folder / "a", "navigator", 1, navigator(1))
    made.approve(first)
    made.propose(folder / "b", "navigator", 2, navigator(2, gain=0.02))
    made.propose(folder / "c", "navigator", 3, navigator(3, gain=0.16, unsafe=0.9, drift=0.5))
    made.propose(folder / "d", "assistant", 4, assistant(4), technique="self_supervised")
    made.propose(folder / "e", "assistant", 5, assistant(5, drift=0.18), technique="self_supervised")
    made.propose(folder / "f", "assistant", 6, assistant(6, harm=14), technique="self_supervised")
    made.fail("navigator")
    made.propose(folder / "g", "navigator", 7, navigator(7, gain=0.2, drift=0.22))
    rejected = made.propose(
        folder / "h", "assistant", 8, assistant(8, saved=0.001), technique="self_supervised"
    )
    made.decide(Action.REJECT, rejected, "no gain that anybody would notice")
    made.propose(folder / "i", "navigator", 9, None)
    return made


if __name__ == "__main__":
    gallery(Path(sys.argv[1]))
