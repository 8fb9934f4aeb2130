"""The loader: strict YAML, every problem located, no traceback and no long wait for any bytes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from policy_cases import DEFAULT, document, integrity_rule, policy, rule, source

from guardrails.errors import PolicyError, Problem
from guardrails.policy import FACTS, lint, load_policy, parse_policy, policy_schema
from guardrails.policy.loader import MAX_BYTES
from guardrails.records import PolicySource, Role

HEAD = "apiVersion: interlock/v1\nkind: Policy\nmetadata: {name: p}\n"


def problems_of(text: str | bytes, tmp_path: Path) -> list[Problem]:
    file = tmp_path / "p.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        load_policy(file)
    except PolicyError as error:
        return list(error.problems)
    return []


def said(problems: list[Problem]) -> str:
    return "\n".join(str(problem) for problem in problems)


def test_a_minimal_policy_loads_and_knows_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(HEAD + "rules:\n- " + json.dumps(rule()) + "\n")
    loaded = load_policy(file)
    assert loaded.policy.rules[0].place.line == 5
    assert loaded.source.files["p.yaml"] == file.read_text()
    assert parse_policy(loaded.source) == loaded.policy


def test_all_problems_are_collected_with_line_column_and_nearest_name(tmp_path: Path) -> None:
    text = """\
apiVersion: interlock/v2
kind: Policy
metadata: {name: bad, verzion: 1}
mode: enforced
defaults: {confidence: 95, minSamples: yes, onError: review}
rules:
  - id: a
    check: drift.output_kll
    require: {metric: kl_mean, op: "<", value: .nan}
    severity: fatal
  - id: a
    check: drift.output_kl
    params: {suit: x}
    when: 'modle.kind == "llm"'
    require: {metric: kl, bound: uper, op: "=<", value: on}
    severity: block
    waivable: yes
approval: {onReview: {quorum: 3, roles: [operator, safty]}, coolDown: 5 minutes}
halt: {quorum: 2, roles: [operator]}
"""
    found = problems_of(text, tmp_path)
    lines = said(found).splitlines()
    expected = [
        "p.yaml:1:13: apiVersion: 'interlock/v2' is not known here (did you mean 'interlock/v1'?)",
        "p.yaml:3:23: unknown key 'verzion' in 'metadata' (did you mean 'version'?)",
        "p.yaml:4:7: mode: 'enforced' is not known here (did you mean 'enforce'?)",
        "p.yaml:8:12: rules[0].check: 'drift.output_kll' is not known here (did you mean 'drift.output_kl'?)",
        "p.yaml:11:9: rule id 'a' stands twice (the first is in line 7)",
        "p.yaml:13:14: unknown key 'suit' in 'rules[1].params' (did you mean 'suite'?)",
        "p.yaml:14:11: rules[1].when: unknown name 'modle' (did you mean 'model'?)",
        "p.yaml:15:23: rules[1].require.metric: 'kl' is not known here (did you mean 'kl_mean'?)",
        "p.yaml:17:15: rules[1].waivable: 'yes' is not true or false (write true or false)",
        "p.yaml:18:52: approval.onReview.roles[1]: 'safty' is not known here (did you mean 'safety'?)",
    ]
    assert [line for line in expected if line not in lines] == []
    assert [p.line for p in found] == sorted(p.line for p in found)
    assert {p.line for p in found} == {1, 3, 4, 5, 8, 9, 10, 11, 13, 14, 15, 17, 18, 19}


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("description: &a x", 16, "anchor &a is not allowed"),
        ("description: *a", 16, "alias *a is not allowed"),
        ("description: !!str x", 16, "is not allowed"),
        ("description: !evil x", 16, "is not allowed"),
        ("description: 'x'\n  description: 'y'", 3, "stands twice"),
        ("description: [", 0, "not YAML"),
        ("description: 'x\x01'", 18, "U+0001 is not allowed"),
        ('description: "\\ud800"', 16, "lone surrogate"),
        ('description: "\\U00110000"', 0, "not YAML"),
        ("version: .inf", 12, "not a finite number"),
        ("version: -.inf", 12, "not a finite number"),
        ("version: .nan", 12, "not a finite number"),
        ("version: 1e999", 12, "not a finite number"),
        ("version: 99999999999999999999", 12, "not a finite number"),
        ("? [a]\n  : b", 5, "a key must be text"),
        ("<<: {a: b}", 3, "unknown key '<<'"),
    ],
)
def test_what_yaml_may_not_hold(text: str, column: int, message: str, tmp_path: Path) -> None:
    body = f"apiVersion: interlock/v1\nkind: Policy\nmetadata:\n  name: p\n  {text}\nrules: []\n"
    found = problems_of(body, tmp_path)
    hit = [p for p in found if message in p.message]
    assert hit, said(found)
    assert column in (0, hit[0].column)


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("12:30:00", "12:30:00"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("0o17", 15),
        ("0x1f", 31),
        ("0", 0),
        ("true", True),
        ("~", None),
        ("1.5e3", 1500.0),
        ("'1'", "1"),
    ],
)
def test_yaml_1_2_scalars(scalar: str, value: object) -> None:
    from guardrails.policy.yaml_tree import parse_tree

    tree = parse_tree("x", f"a: {scalar}".encode())
    assert tree.problems == []
    assert tree.value == {"a": value}
    assert type(tree.value["a"]) is type(value)


def test_second_document_is_refused(tmp_path: Path) -> None:
    assert "second document" in said(problems_of(HEAD + "rules: []\n---\na: b\n", tmp_path))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"# nothing",
        b"[]",
        b"text",
        b"\xff\xfe",
        b"a: \xc3(",
        b"null",
        b"--- !!map {}",
        b"%YAML 9.9\n---\na",
    ],
)
def test_not_a_policy_at_all(data: bytes, tmp_path: Path) -> None:
    found = problems_of(data, tmp_path)
    assert found
    assert all(p.line >= 1 and p.column >= 1 for p in found)


def test_not_utf8_is_located(tmp_path: Path) -> None:
    (found,) = problems_of(b"a: 1\nb: \xff", tmp_path)
    assert (found.line, found.column) == (2, 4)
    assert "0xff" in found.message


def test_size_is_capped_over_all_files(tmp_path: Path) -> None:
    filler = "# " + "x" * (MAX_BYTES // 2) + "\n"
    (tmp_path / "base.yaml").write_text(filler + HEAD.replace("p}", "b}"))
    (tmp_path / "p.yaml").write_text(filler + HEAD + "extends: [base.yaml]\n")
    with pytest.raises(PolicyError, match="larger than"):
        load_policy(tmp_path / "p.yaml")
    (tmp_path / "p.yaml").write_text(HEAD + "extends: [base.yaml]\n")
    assert load_policy(tmp_path / "p.yaml").policy.name == "p"


def test_what_the_log_could_not_hold_is_refused() -> None:
    # Quotes and backslashes double when a log entry holds them.
    made = source(("p.yaml", HEAD + "# " + "\\" * (MAX_BYTES * 2 // 3) + "\n"))
    with pytest.raises(PolicyError, match="as the log would hold them"):
        parse_policy(made)


def test_a_full_size_policy_fits_one_log_entry() -> None:
    import base64

    from guardrails import canonical

    made = source(("p.yaml", HEAD + "# " + "x" * (MAX_BYTES - len(HEAD) - 100) + "\n"))
    parse_policy(made)
    payload = canonical.encode(dict(made.files))
    assert len(base64.b64encode(payload)) + 3_000 < 65_535


@pytest.mark.parametrize("text", [
    "[" * 40_000, "{" * 40_000, "- " * 20_000, "? " * 20_000, "a: " * 10_000, "- - a\n" * 7_000,
    '"' + "\n a" * 12_000, HEAD + "rules:\n" + "- {}\n" * 4_000, HEAD + "rules:\n" + "- {}\n" * 80,
    HEAD + "budgets: {cumulativeDrift: [" + "{}," * 2_400 + "]}",
    HEAD + "".join(f"k{i}: 1\n" for i in range(2_000)),
])  # fmt: skip
def test_hostile_structure_ends_soon(text: str, tmp_path: Path) -> None:
    problems_of(HEAD, tmp_path)  # imports and the schema are not what is timed
    started = time.process_time()
    assert problems_of(text, tmp_path)
    assert time.process_time() - started < 1.0


PIECES = [
    b"[", b"{", b"- ", b"? ", b": ", b"&a ", b"*a", b"!x ", b'"', b"'", b"|\n", b"\n", b"%YAML 9\n", b"---\n", b"\t",
    b"\x00", b"\xff", b"\\U00110000", b'"\\ud800"', b"#", b"<<: ", b".nan", b"1e999", b"9" * 30, b"\xef\xbb\xbf",
    b"\xc2\x85", b"true", b"]", b"}", b",", b"", b"rules", b"extends: [p.yaml]\n",
]  # fmt: skip


@st.composite
def mutated_default(draw: st.DrawFn) -> bytes:
    data = bytearray(DEFAULT.read_bytes())
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.sampled_from([0, 1, 5, 40]))] = draw(st.sampled_from(PIECES))
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(st.sampled_from(PIECES), max_size=60).map(b"".join),
        mutated_default(),
    )
)
def test_no_bytes_make_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "p.yaml"
    file.write_bytes(data)
    started = time.process_time()
    try:
        load_policy(file)
    except PolicyError as error:
        for problem in error.problems:
            assert problem.line >= 1
            assert problem.column >= 1
            assert str(problem).isprintable()
            str(problem).encode("utf-8")
    assert time.process_time() - started < 2.0  # one second, and room for a busy machine


# --- second pass ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (rule(require={"metric": "kl_mean", "op": "<", "value": 1}), "say which bound"),
        (
            rule(require={"metric": "kl_mean", "bound": "upper", "op": "==", "value": 1}),
            "'==' has no meaning",
        ),
        (
            integrity_rule(require={"metric": "violations", "bound": "upper", "op": "==", "value": 0}),
            "is exact",
        ),
        (rule(id="budget.x"), "is reserved"),
        (rule(params={}), "'suite' is missing"),
        ({k: v for k, v in rule().items() if k != "params"}, "'params' is missing"),
        (rule(params={"suite": "c", "reference": "father"}), "'father' is not known here"),
        (rule(params={"suite": "a\n"}), "does not have the needed form"),
        (rule(when="model.knid == 'llm'"), "unknown fact 'model.knid'"),
        (rule(when=""), "the text is empty"),
        (rule(severity="fatal"), "'fatal' is not known here"),
        (rule(fixed=False), "unknown key 'fixed'"),
    ],
)
def test_rules_that_mean_nothing_are_refused(bad: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message.replace("(", r"\(")):
        policy(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"approval": {"onBlocked": "always"}}, "'always' is not known here"),
        (
            {"approval": {"onReview": {"quorum": 3, "roles": ["operator", "safety"], "distinctRoles": True}}},
            "cannot come",
        ),
        ({"approval": {"coolDown": "2d", "expiresAfter": "1d"}}, "would expire before"),
        ({"approval": {"expiresAfter": "0h"}}, "nothing could be approved"),
        ({"approval": {"surfaces": []}}, "at least 1"),
        ({"halt": {"quorum": 2, "roles": ["operator"]}}, "above the largest value 1"),
        ({"defaults": {"onError": "review"}}, "not known here"),
        ({"defaults": {"onInconclusive": "pass"}}, "not known here"),
        ({"defaults": {"confidence": 1}}, "must be below 1"),
        ({"defaults": {"minSamples": 0}}, "below the least value 1"),
        ({"isolation": {"minimum": "strct"}}, "did you mean 'strict'"),
        ({"waivers": []}, "unknown key 'waivers'"),
        ({"extends": ["../base.yaml"]}, "needed form"),
        ({"extends": ["/etc/passwd"]}, "needed form"),
    ],
)
def test_settings_that_cannot_hold_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        policy(rule(), **keys)


@pytest.mark.parametrize("neutral", [{"count": 0}, {"count": None}, None, 0, {}, {"count": []}])
def test_unbuilt_features_accept_their_neutral_value(neutral: object) -> None:
    policy(rule(), approval={"blindSamples": neutral})


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"replay": {"share": 0.1}}, "replay"),
        ({"replay": {"techniques": ["meta"]}}, "replay"),
        ({"approval": {"seededChecks": {"rate": 0.01}}}, "approval.seededChecks"),
        ({"approval": {"blindSamples": {"count": 6}}}, "approval.blindSamples"),
        ({"approval": {"blindSamples": False}}, "approval.blindSamples"),
        ({"deadMan": {"operatorSeenWithin": "72h"}}, "deadMan"),
        ({"deadMan": {"seen": None}}, "deadMan"),
    ],
)
def test_unbuilt_features_refuse_anything_else(keys: dict[str, object], key: str) -> None:
    with pytest.raises(PolicyError, match=f"{key}: the feature is not built yet") as caught:
        policy(rule(), **keys)
    assert caught.value.exit_status == 3


# --- when ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression",
    [
        'model.kind == "llm"',
        'model.labels["tier"] == "prod" && !proposal.submitted',
        "has(model.labels.tier) || 'x' in model.labels",
        'model["kind"] in ["llm", "lam"]',
        '["llm", "lam"].exists(k, k == model.kind)',
        'proposal.technique.startsWith("self") && proposal.seed > 3 // why',
        "size(model.labels) == 1 ? true : false",
    ],
)
def test_when_accepts(expression: str) -> None:
    assert policy(rule(when=expression)).rules[0].when == expression


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("modle.kind == 'x' || true", "unknown name 'modle'"),
        ("true || model.knd == 'x'", "unknown fact 'model.knd'"),
        ("model.kind.x == 'x'", "unknown fact 'model.kind.x'"),
        ('model["knd"] == "x"', "unknown fact 'model.knd'"),
        ("size(model) > 0", "'model' alone is not a fact"),
        (".model.kind == 'x'", "follows nothing"),
        ("proposal.intent == 'x'", "unknown fact 'proposal.intent'"),
        ("now() > 1", "unknown function 'now'"),
        ("[1].map(x, x) == [1]", "unknown function 'map'"),
        ("model.kind ==", "is not CEL"),
        ("model.kind = 'x'", "has no meaning"),
        ("[1].all(a, [1].all(b, [1].all(c, true)))", "more than 2 loops"),
        ("(" * 120 + "true" + ")" * 120, "is not CEL"),
        ("true " + "&& true" * 100, "longer than"),
        ("[1].exists(k, k == 1) && k == 1", "unknown name 'k'"),
    ],
)
def test_when_refuses(expression: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        policy(rule(when=expression))
    assert message in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([
    "model", "proposal", ".", "kind", "labels", "==", "&&", "||", "!", "(", ")", "[", "]", "{", "}", "1", '"a"', "in", "?",
    ":", "-", "has", "size", "exists", ",", "x", "true", "null", "\\", "'", "@", "0x", "1e9", "r'", "%", "/",
]), max_size=30).map(" ".join))  # fmt: skip
def test_when_never_crashes(expression: str) -> None:
    from guardrails.errors import NotMeasuredError
    from guardrails.policy.when import flaws, holds

    found = flaws(expression)
    try:
        outcome = holds(expression, {"model": {"kind": "llm", "labels": {}}, "proposal": {"seed": 1}})
    except NotMeasuredError:
        return
    assert outcome in (True, False)
    assert found == []


# --- sources, schema, warnings -------------------------------------------------------------


def test_a_source_must_be_what_it_says() -> None:
    good = source(("p.yaml", document(rule())))
    parse_policy(good)
    changed = {"p.yaml": good.files["p.yaml"].replace("0.15", "0.95")}
    with pytest.raises(PolicyError, match="the files are not those of"):
        parse_policy(PolicySource(good.name, good.digest, good.order, changed))
    with pytest.raises(PolicyError, match="is named 'p', not 'q'"):
        parse_policy(source(("p.yaml", document(rule())), name="q"))
    with pytest.raises(PolicyError, match="list of files"):
        parse_policy(PolicySource(good.name, good.digest, (), good.files))


def test_missing_unreadable_and_oddly_named_files(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="there is no file"):
        load_policy(tmp_path / "absent.yaml")
    with pytest.raises(PolicyError, match="is a folder, not a file"):
        load_policy(tmp_path)
    (tmp_path / "default.yaml").write_text("")
    (tmp_path / "gone.yaml").symlink_to("nowhere")
    with pytest.raises(PolicyError, match=r"no file 'defualt.yaml' \(did you mean 'default.yaml'"):
        load_policy(tmp_path / "defualt.yaml")
    with pytest.raises(PolicyError, match="a link that leads to no file"):
        load_policy(tmp_path / "gone.yaml")
    with pytest.raises(PolicyError, match="printable ASCII"):
        load_policy(tmp_path / "pölicy.yaml")


def test_the_written_schema_is_the_generated_one() -> None:
    schema = policy_schema()
    Draft7Validator.check_schema(schema)
    written = json.loads((DEFAULT.parent / "policy.v1.schema.json").read_text())
    assert written == schema, "write policies/policy.v1.schema.json anew (interlock policy schema)"
    Draft7Validator(written).validate(yaml.safe_load(DEFAULT.read_text()))


def test_every_object_of_the_schema_is_closed() -> None:
    def walk(node: object, where: str) -> None:
        if isinstance(node, dict):
            if node.get("type") == "object" and "properties" in node:
                assert node.get("additionalProperties") is False, where
            for key, value in node.items():
                walk(value, f"{where}.{key}")

    walk(policy_schema(), "")


def test_facts_and_roles_are_documented() -> None:
    assert set(FACTS) >= {
        "model.name",
        "model.kind",
        "model.labels",
        "proposal.technique",
        "proposal.submitted",
    }
    roles = policy_schema()["properties"]["rollback"]["properties"]["roles"]["items"]["enum"]
    assert roles == [role.value for role in Role]


@pytest.mark.parametrize(
    ("changes", "keys", "message"),
    [
        (
            {"require": {"metric": "kl_mean", "bound": "lower", "op": "<", "value": 1}},
            {},
            "the less was measured",
        ),
        ({"require": {"metric": "kl_mean", "bound": "upper", "op": ">", "value": -1}}, {}, "always holds"),
        ({"rationale": ""}, {}, "has no rationale"),
    ],
)
def test_lint_warns(changes: dict[str, object], keys: dict[str, object], message: str) -> None:
    assert message in said(lint(policy(rule(**changes), **keys)))


def test_lint_warns_of_a_limit_that_the_sample_cannot_resolve() -> None:
    def harm(limit: float, **defaults: object) -> list[Problem]:
        one = rule(
            check="harm.compliance",
            when='model.kind == "llm"',
            require={"metric": "rate", "bound": "upper", "op": "<", "value": limit},
            rationale="why",
        )
        return lint(policy(one, defaults=defaults))

    # No failure in n items leaves 1 - (alpha/2)^(1/n): 0.0183 for 200 at 0.95.
    assert harm(0.019) == []
    (warning,) = harm(0.018)
    assert "200 samples cannot resolve" in warning.message
    assert warning.line > 0
    assert harm(0.018, minSamples=250) == []
    assert "no sample size can" in said(harm(0.0))


# --- what authors really write ----------------------------------------------------------------


RULE = """\
rules:
  - id: drift
    check: drift.output_kl
    params: {suite: control}
    require: {metric: kl_mean, bound: upper, op: "<", value: 0.15}
    severity: review
"""


def test_only_a_name_that_is_alike_is_proposed_for_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("21_role.yaml", "strict.yaml"):
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises(PolicyError, match=r"did you mean 'strict\.yaml'"):
        load_policy(tmp_path / "stict.yml")
    with pytest.raises(PolicyError, match="looked for it at"):
        load_policy(tmp_path / "nofile.yaml")


@pytest.mark.parametrize(
    ("before", "after", "line", "column", "message"),
    [
        ("    params", "   params", 7, 4, "in 'params: {suite: control}': this line begins in column 4, those it"),
        ("    params", "\tparams", 7, 1, "indent with spaces, not tabs"),
        ("    params", "\u00a0\u00a0  params", 8, 5, "line 7 is indented with U+00A0"),
        ("control}", "control", 7, 13, "the '{' here is not closed, or a comma is missing (close it with '}')"),
        ("severity: review", "when: [\n", 11, 1, "a '[' or '{' before this is not closed"),
        ('"<"', '"<', 8, 50, "a quotation that begins here never ends"),
        ("severity: review", "severity:review", 9, 5, "a space after the colon"),
        ("severity: review", "rationale: so: it is", 9, 18, "put text that holds ': ' in quotes"),
        ("severity: review", "severity:", 9, 14, "a value is missing after the colon: one of warn, review, block"),
        ("0.15", "15%", 8, 62, "'15%' is not a number (write 0.15: a share is a number from 0 to 1)"),
        ("0.15", "0,15", 8, 64, "unknown key '15' in 'rules[0].require' (a decimal point, no comma: 0.15)"),
        ("0.15", "'0.15'", 8, 62, "leave the quotes out"),
        ('"<"', "\u201c<\u201d", 8, 50, "did you mean '<'?"),
        ('"<"', "\uff1c", 8, 50, "did you mean '<'?"),
        ("severity", "s\u0435verity", 9, 5, "did you mean 'severity'?"),
        ("control}", "control, suite: b}", 7, 30, "key 'suite' stands twice"),
    ],
)  # fmt: skip
def test_slips_are_named_where_they_are_with_what_to_write(
    before: str, after: str, line: int, column: int, message: str, tmp_path: Path
) -> None:
    found = problems_of(HEAD + RULE.replace(before, after, 1), tmp_path)
    assert any((p.line, p.column) == (line, column) for p in found), said(found)
    assert any(part in said(found) for part in message.split("|")), said(found)
    assert len(found) <= 2, "one slip is told once"


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ("approval: {coolDown: 72 h}", "did you mean '72h'?"),
        ("approval: {coolDown: 3 days}", "did you mean '3d'?"),
        ("approval: {coolDown: 1.5 hours}", "did you mean '90m'?"),
        ("approval: {coolDown: 2w}", "did you mean '14d'?"),
        ("approval: {coolDown: 72}", "a unit is missing: 72s, 72m, 72h or 72d"),
        ("retention: {rejectedDays: 2 weeks}", "write 14: the unit is that of the key's name"),
        ("budgets: {compute: {cpuSecondsPerProposal: 15m}}", "write 900: the unit is that of the key's name"),
        ("defaults: {confidence: 95}", "did you mean 0.95?"),
        ("defaults: {confidence: 95%}", "write 0.95"),
        ("defaults: {minSamples: 1_000}", "write 1000"),
        ("retention: {rejectedDays: 010}", "010 is octal to some readers and decimal to others (write 10"),
        (
            "rules: [{when: 'model.kind = 1'}]",
            "when, character 12: '=' has no meaning here (compare with ==)",
        ),
        ("rules: [{when: 'true and false'}]", "when, character 6: unknown name 'and' (write &&)"),
        (
            "rules: [{when: 'model.kind == llm'}]",
            """unknown name 'llm' (if it is a text: "llm"; known: model.name""",
        ),
        (
            "waivers: [{rule: a}]",
            "unknown key 'waivers' (exceptions are signed, never text in a file: interlock waiver",
        ),
    ],
)
def test_units_and_numbers_come_with_what_to_write(keys: str, hint: str, tmp_path: Path) -> None:
    assert hint in said(problems_of(HEAD + keys + "\n", tmp_path))


@pytest.mark.parametrize(
    "character", ["\u2028", "\u2029", "\x85", "\r", "\u202e", "\u2066", "\u200b", "\ufeff", "\xad"]
)
def test_no_comment_hides_a_key_and_nothing_invisible_is_read(character: str, tmp_path: Path) -> None:
    text = HEAD + RULE + f"    # as agreed{character}    waivable: true\n"
    (found,) = problems_of(text, tmp_path)
    assert f"U+{ord(character):04X} is not allowed" in found.message
    assert (found.line, found.column) == (10, 16)
    # The positive control: the same text with an ordinary space is a policy.
    assert problems_of(text.replace(character, " "), tmp_path) == []
    assert problems_of("\ufeff" + (HEAD + RULE).replace("\n", "\r\n"), tmp_path) == []


@pytest.mark.parametrize("target", ["{}/secret.yaml", "../secret.yaml", "link.yaml", "sub/../../secret.yaml"])
def test_extends_opens_nothing_outside_its_folder(target: str, tmp_path: Path) -> None:
    """A policy from somebody else must not make an error message of a file that it names."""
    (tmp_path / "secret.yaml").write_text("hunter2")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "link.yaml").symlink_to("../secret.yaml")
    (folder / "near.yaml").symlink_to("base.yaml")
    (folder / "base.yaml").write_text(HEAD.replace("name: p", "name: base") + RULE)
    found = said(problems_of(HEAD + f"extends: [{target.format(tmp_path)}]\n" + RULE, folder))
    assert "hunter2" not in found
    assert "needed form" in found or "leads out of the policy's folder" in found
    assert problems_of(HEAD + "extends: [near.yaml]\n" + RULE, folder) == [], "a link inside is a file"
