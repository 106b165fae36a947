"""Facts in unexpected forms give a plan, never a traceback."""

from provision.core.models.facts import HostFacts, Nvidia, NvidiaGpu, Python, User
from provision.core.models.settings import Settings
from provision.phases.plan.profile_builder import profile_of
from provision.phases.plan.rules import HOST_RULES, RULES
from provision.phases.plan.what_if import parse_what_if
from tests.plan.planned import resolve, stack_of


def test_a_host_without_known_facts_is_planned_for_the_cpu() -> None:
    resolution = resolve(HostFacts(host="h", probed_at=""))
    assert stack_of(resolution).variant == "cpu"
    assert len(resolution.assumptions) >= 5


def test_a_python_in_the_home_of_a_login_with_sudo_is_not_taken() -> None:
    pythons = (
        Python(path="/nfs/ada/conda/bin/python3", version="3.12.1"),
        Python(path="/usr/bin/python3", version="3.12.3"),
    )
    user = User(name="ada", uid=1000, home="/nfs/ada")
    facts = parse_what_if("gpu=none glibc=2.36").model_copy(update={"pythons": pythons, "user": user})
    for become, path in ((True, "/usr/bin/python3"), (False, "/nfs/ada/conda/bin/python3")):
        found = profile_of(facts, Settings(), escalates=become).pythons
        assert found[0].path == path, become


def test_a_python_version_with_a_plus_is_accepted() -> None:
    pythons = (Python(path="/usr/bin/python3", version="3.11.2+"), Python(path="/x", version="?"))
    facts = parse_what_if("gpu=none glibc=2.36").model_copy(update={"pythons": pythons})
    assert stack_of(resolve(facts)).interpreter.version == "3.11.2"


def test_unknown_cards_are_planned_without_an_error() -> None:
    nvidia = Nvidia(driver_version="580.82.07", gpus=(NvidiaGpu(index=0),))
    resolution = resolve(parse_what_if("glibc=2.36").model_copy(update={"nvidia": nvidia}))
    assert resolution.stack is not None
    assert any("compute capability is unknown" in text for text in resolution.assumptions)


def test_rules_have_one_id_and_whole_sentences() -> None:
    rules = [*HOST_RULES, *RULES]
    assert len({rule.id for rule in rules}) == len(rules)
    assert all(rule.statement.endswith(".") for rule in rules)
