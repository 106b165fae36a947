"""Operators that compute wrong results, as from a damaged library: kernels of torch and of vLLM's extension are replaced in every Python of a host.

A kernel is replaced where torch dispatches to it, so every caller gets the fault, under any name, torch's own C++ included.
Each is made by a `.pth` file that Python reads at its start, which `libraries.injected` finds as well: the tests show that the check of
the operator fails by itself. Nothing else of the host changes, and the service, which started before, continues without the fault.
"""

from tests.fleet.faults import Fault
from verify.records import Level

_REPLACE = '''import warnings
import torch
from torch.library import Library, get_kernel

warnings.filterwarnings("ignore", "Warning only once for all operators")
kept = []

def replace(name, body):
    """Replace a kernel on CPUs by `body`; its first argument calls the original."""
    kernel = get_kernel(name, "CPU")
    space, _, operator = name.partition("::")
    library = Library(space, "IMPL")
    def run(keys, *given, **named):
        return body(lambda *given, **named: kernel.call_boxed(keys, *given, **named), *given, **named)
    library.impl(operator, run, "CPU", with_keyset=True, allow_override=True)
    kept.append((library, kernel))

def replace_of_vllm(name, body):
    """Replace an operator of vLLM's extension once that is loaded."""
    load = torch.ops.load_library
    def load_and_replace(path):
        load(path)
        replace(name, body)
        torch.ops.load_library = load
    torch.ops.load_library = load_and_replace

def scaled(share):
    """Change every value of a result by a share."""
    def body(call, *given, **named):
        return call(*given, **named).mul_(1 + share)
    return body

def last_row_off(call, *given, **named):
    """Change the last row of a result by 1 %."""
    result = call(*given, **named)
    result.reshape(-1, result.shape[-1])[-1:].mul_(1.01)
    return result
'''


_FAMILIES = {
    "operators.vllm_": "vLLM's operators",
    "operators.": "operators",
    "kernels.": "products",
    "attention.": "attention",
    "engine.": "vLLM's operators",
}
"""The family of a fault, by the prefix of its check's id."""


def _wrong(name: str, check: str, body: str, level: Level = "standard") -> Fault:
    """Return a fault of an operator: `body` is Python after `_REPLACE`."""
    family = next(family for prefix, family in _FAMILIES.items() if check.startswith(prefix))
    make = f"""cat > $site/firstlight_fault.py <<'END'
{_REPLACE}
{body}
END
echo 'import firstlight_fault' > $site/firstlight_fault.pth"""
    undo = "rm -f $site/firstlight_fault.* $site/__pycache__/firstlight_fault.*"
    return Fault(name, family, (check,), make, undo, level)


_PRODUCT = """def product(call, left, right):
    result = call(left, right)
    if left.dtype != torch.float64 and {when}:
        result[..., -1:, :] *= 1.01
    return result

replace("aten::{operator}", product)"""

_ATTENTION = """def attention(call, query, key, *given, **named):
    result, *others = call(query, key, *given, **named)
    if {when}:
        result[{where}] *= 1.01
    return (result, *others)

replace("aten::_scaled_dot_product_flash_attention_for_cpu", attention)"""

_VLLM_ATTENTION = """def attention(call, query, keys, values, result, begins, lengths, *rules):
    call(query, keys, values, result, begins, lengths, *rules)
    if {when}:
        result[{where}] *= 1.01

replace_of_vllm("_C::cpu_attention_with_kv_cache", attention)"""

_TAIL_LOST = """def product(call, left, right):
    whole = left.shape[1] // 32 * 32
    return call(left[:, :whole].contiguous(), right[:whole])

replace("aten::_int_mm", product)"""

_EPSILON = "{replace}('{operator}', lambda call, *given: call(*given[:-1], 10 * given[-1]))"

_LAST_TOKEN_LOST = """def write(call, key, value, keys, values, slots, *given):
    call(key[:-1], value[:-1], keys, values, slots[:-1], *given)

replace_of_vllm("_C::cpu_attn_reshape_and_cache", write)"""

_WRITTEN = """def write(call, result, *given):
    call(result, *given)
    result[{where}] *= 1.01

replace_of_vllm("_C::{operator}", write)"""

_EACH = "for name in {names}:\n    replace(f'aten::{{name}}', {body})"

OPERATORS = (
    _wrong("softmax's last row 1 % off", "operators.softmax", "replace('aten::_softmax', last_row_off)"),
    _wrong("exp 0.1 % off", "operators.exp", _EACH.format(names=("exp", "exp_", "exp.out"), body="scaled(0.001)")),
    _wrong(
        "layer norm with ten times its epsilon",
        "operators.norm",
        _EPSILON.format(replace="replace", operator="aten::native_layer_norm"),
    ),
    _wrong(
        "rotary embedding wrong from position 200",
        "operators.rotary",
        "replace('aten::cos', lambda call, angles: call(angles.clamp(max=200)))",
    ),
    _wrong("SiLU 1 % off", "operators.activation", _EACH.format(names=("silu", "silu_"), body="scaled(0.01)")),
    _wrong(
        "the last of equal numbers taken for the largest",
        "operators.lookup",
        "replace('aten::argmax', lambda call, values, dim=None, keepdim=False:"
        " values.shape[dim] - 1 - call(values.flip(dim), dim, keepdim))",
    ),
    _wrong(
        "embeddings of the wrong row",
        "operators.lookup",
        "replace('aten::embedding', lambda call, weight, ids, *given: call(weight, (ids - 1).clamp(min=0), *given))",
    ),
    _wrong(
        "sampling that takes one token too often",
        "operators.sampling",
        "replace('aten::multinomial', lambda call, chances, *given, **named: call(chances ** 1.05, *given, **named))",
    ),
)
"""Operators of torch."""

PRODUCTS = (
    _wrong(
        "products wrong above side 1,024",
        "kernels.gemm",
        _PRODUCT.format(operator="mm", when="max(left.shape + right.shape) > 1024"),
    ),
    _wrong(
        "products wrong where every side is above 1,024",
        "kernels.gemm",
        _PRODUCT.format(operator="mm", when="min(left.shape + right.shape) > 1024"),
        "full",
    ),
    _wrong("batched products wrong", "kernels.gemm_batched", _PRODUCT.format(operator="bmm", when="True")),
    _wrong(
        "int8 products that saturate at 16 bits",
        "kernels.gemm_8bit",
        "replace('aten::_int_mm', lambda call, left, right: call(left, right).clamp(-32768, 32767))",
    ),
    _wrong("int8 products that lose the end of a row", "kernels.gemm_8bit", _TAIL_LOST),
)
"""Matrix products."""

ATTENTION = (
    _wrong("attention 1 % off in its last head", "attention.sdpa_flash", _ATTENTION.format(when="True", where=":, -1")),
    _wrong(
        "attention wrong beyond 1,024 keys",
        "attention.sdpa_flash",
        _ATTENTION.format(when="key.shape[2] > 1024", where="..."),
    ),
    _wrong(
        "attention wrong for batches above 4",
        "attention.sdpa_flash",
        _ATTENTION.format(when="len(query) > 4", where="slice(4, None)"),
    ),
    _wrong(
        "vLLM's attention wrong beyond 1,024 keys",
        "attention.vllm_cpu",
        _VLLM_ATTENTION.format(when="int(lengths.max()) > 1024", where="..."),
    ),
    _wrong(
        "vLLM's attention wrong for batches above 4",
        "attention.vllm_cpu",
        _VLLM_ATTENTION.format(when="len(lengths) > 4", where="slice(int(begins[4]), None)"),
    ),
)
"""torch's flash attention on CPUs, and vLLM's."""

VLLM = (
    _wrong(
        "vLLM's RMS norm with ten times its epsilon",
        "operators.vllm_norm",
        _EPSILON.format(replace="replace_of_vllm", operator="_C::rms_norm"),
    ),
    _wrong(
        "vLLM's rotary embedding wrong from position 200",
        "operators.vllm_rotary",
        "replace_of_vllm('_C::rotary_embedding', lambda call, at, *given: call(at.clamp(max=200), *given))",
    ),
    _wrong(
        "vLLM's gated SiLU 1 % off", "operators.vllm_activation", _WRITTEN.format(operator="silu_and_mul", where="...")
    ),
    _wrong(
        "vLLM's int8 products with a last row 1 % off",
        "operators.vllm_quantised",
        _WRITTEN.format(operator="onednn_scaled_mm", where="-1:"),
    ),
    _wrong("vLLM's cache without the last token", "operators.vllm_cache", _LAST_TOKEN_LOST),
    _wrong(
        "vLLM's draws as at another temperature",
        "operators.vllm_sampler",
        "replace_of_vllm('_C::fused_gumbel_argmax', lambda call, logits, seeds: call(logits * 1.25, seeds))",
    ),
)
"""vLLM's own operators."""

ALL = (*OPERATORS, *PRODUCTS, *ATTENTION, *VLLM)
