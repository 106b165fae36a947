"""Configurations of models in the true format, with values of our own: at least one for each family, and some that are of none."""

from typing import Any

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
LLAMA3_ROPE = {"factor": 8.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"}


def of(architecture: str, kind: str, **more: Any) -> dict[str, Any]:
    """Return the configuration of a text model."""
    return {"architectures": [architecture], "model_type": kind, **TEXT, **more}


def nested(architecture: str, kind: str, **more: Any) -> dict[str, Any]:
    """Return the configuration of a model that takes pictures too: its text part stands below."""
    return {"architectures": [architecture], "model_type": kind, "text_config": TEXT, **more}


DEEPSEEK = of(
    "DeepseekV3ForCausalLM",
    "deepseek_v3",
    auto_map={
        "AutoConfig": "configuration_deepseek.DeepseekV3Config",
        "AutoModel": "modeling_deepseek.DeepseekV3Model",
    },
    kv_lora_rank=16,
    qk_rope_head_dim=8,
)
KIMI = DEEPSEEK | {"model_type": "kimi_k2"}
LLAMA = of("LlamaForCausalLM", "llama")
LLAMA_31 = LLAMA | {"rope_scaling": LLAMA3_ROPE}
QWEN3 = of("Qwen3ForCausalLM", "qwen3")
QWEN3_MOE = of("Qwen3MoeForCausalLM", "qwen3_moe", num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32)
QWEN3_NEXT = of("Qwen3NextForCausalLM", "qwen3_next")
MISTRAL = of("MistralForCausalLM", "mistral")

FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    ("Hermes", "NousResearch/Hermes-3-Llama-3.1-8B", LLAMA_31),
    ("Hermes", "/srv/models/Hermes-2-Pro-Mistral-7B", MISTRAL),
    ("xLAM", "Salesforce/Llama-xLAM-2-8b-fc-r", LLAMA_31),
    ("DeepSeek-R1-Distill", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", LLAMA_31),
    ("DeepSeek-R1-Distill", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", of("Qwen2ForCausalLM", "qwen2")),
    ("Llama 3.1 to 3.3", "meta-llama/Llama-3.1-8B-Instruct", LLAMA_31),
    ("Llama 3.1 to 3.3", "meta-llama/Llama-3.3-70B-Instruct@main", LLAMA_31),
    ("Llama 4", "meta-llama/Llama-4-Scout-17B-16E-Instruct", nested("Llama4ForConditionalGeneration", "llama4")),
    (
        "Mistral, reasoning",
        "mistralai/Ministral-3-8B-Reasoning-2512",
        nested("Mistral3ForConditionalGeneration", "mistral3"),
    ),
    ("Mistral", "mistralai/Mistral-7B-Instruct-v0.3", MISTRAL),
    ("Mistral", "/srv/models/Mixtral-8x7B/", of("MixtralForCausalLM", "mixtral", num_local_experts=8)),
    ("QwQ", "Qwen/QwQ-32B", of("Qwen2ForCausalLM", "qwen2")),
    ("Qwen2.5", "Qwen/Qwen2.5-7B-Instruct", of("Qwen2ForCausalLM", "qwen2")),
    ("Qwen3-Coder", "Qwen/Qwen3-Coder-30B-A3B-Instruct", QWEN3_MOE),
    ("Qwen3-Coder", "Qwen/Qwen3-Coder-Next", QWEN3_NEXT),
    ("Qwen3-Instruct", "Qwen/Qwen3-30B-A3B-Instruct-2507", QWEN3_MOE),
    ("Qwen3-Instruct", "Qwen/Qwen3-Next-80B-A3B-Instruct", QWEN3_NEXT),
    ("Qwen3", "Qwen/Qwen3-8B", QWEN3),
    ("Qwen3", "/srv/team@corp.example/Qwen3-8B", QWEN3),
    ("Qwen3", "Qwen/Qwen3-30B-A3B-Thinking-2507", QWEN3_MOE),
    ("Qwen3-Next-Thinking", "Qwen/Qwen3-Next-80B-A3B-Thinking", QWEN3_NEXT),
    ("Qwen3.5 to 3.8", "/srv/models/mine", nested("Qwen3_5MoeForConditionalGeneration", "qwen3_5_moe")),
    (
        "gpt-oss",
        "openai/gpt-oss-20b",
        of("GptOssForCausalLM", "gpt_oss", quantization_config={"quant_method": "mxfp4"}),
    ),
    ("GigaChat 3", "ai-sage/GigaChat3-10B-A1.8B", DEEPSEEK),
    ("Kimi K2 Thinking", "moonshotai/Kimi-K2-Thinking", KIMI),
    ("Kimi K2", "moonshotai/Kimi-K2-Instruct", KIMI),
    ("Kimi K2.5 to K2.7", "moonshotai/Kimi-K2.5", nested("KimiK25ForConditionalGeneration", "kimi_k25")),
    ("Kimi K3", "moonshotai/Kimi-K3", nested("KimiK3ForConditionalGeneration", "kimi_k3")),
    ("Kimi Linear", "moonshotai/Kimi-Linear-48B-A3B-Instruct", of("KimiLinearForCausalLM", "kimi_linear")),
    ("DeepSeek-R1", "deepseek-ai/DeepSeek-R1-0528", DEEPSEEK),
    ("DeepSeek-V3.1", "deepseek-ai/DeepSeek-V3.1", DEEPSEEK),
    ("DeepSeek-V3", "deepseek-ai/DeepSeek-V3-0324", DEEPSEEK),
    ("DeepSeek-V3.2", "deepseek-ai/DeepSeek-V3.2", of("DeepseekV32ForCausalLM", "deepseek_v32", index_topk=64)),
    ("DeepSeek-V4", "deepseek-ai/DeepSeek-V4-Pro", of("DeepseekV4ForCausalLM", "deepseek_v4")),
    ("GLM-4.7", "zai-org/GLM-4.7", of("Glm4MoeForCausalLM", "glm4_moe")),
    ("GLM-4.7", "zai-org/GLM-4.7-Flash", of("Glm4MoeLiteForCausalLM", "glm4_moe_lite")),
    ("GLM-4.5, 4.6", "zai-org/GLM-4.5-Air", of("Glm4MoeForCausalLM", "glm4_moe")),
    ("GLM-4.5V, 4.6V", "zai-org/GLM-4.6V", nested("Glm4vMoeForConditionalGeneration", "glm4v_moe")),
    ("GLM-5", "zai-org/GLM-5.1", of("GlmMoeDsaForCausalLM", "glm_moe_dsa")),
    ("MiniMax-M2", "MiniMaxAI/MiniMax-M2", of("MiniMaxM2ForCausalLM", "minimax_m2", auto_map={"AutoConfig": "a.B"})),
    ("MiniMax-M3", "MiniMaxAI/MiniMax-M3", nested("MiniMaxM3SparseForConditionalGeneration", "minimax_m3_vl")),
    ("FunctionGemma", "google/functiongemma-270m-it", of("Gemma3ForCausalLM", "gemma3_text")),
    ("Gemma 4", "google/gemma-4-31B-it", nested("Gemma4ForConditionalGeneration", "gemma4")),
    ("Granite 3.2, 3.3", "ibm-granite/granite-3.2-2b-instruct", of("GraniteForCausalLM", "granite")),
    ("Granite 3", "ibm-granite/granite-3.1-8b-instruct", of("GraniteForCausalLM", "granite")),
    ("Granite 4", "ibm-granite/granite-4.0-h-small", of("GraniteMoeHybridForCausalLM", "granitemoehybrid")),
    ("Seed-OSS", "ByteDance-Seed/Seed-OSS-36B-Instruct", of("SeedOssForCausalLM", "seed_oss")),
    ("Step-3.5, 3.7", "stepfun-ai/Step-3.5-Flash", of("Step3p5ForCausalLM", "step3p5")),
    ("Hunyuan A13B", "tencent/Hunyuan-A13B-Instruct", of("HunYuanMoEV1ForCausalLM", "hunyuan_v1_moe")),
    ("Hy3", "tencent/Hy3", of("HYV3ForCausalLM", "hy_v3")),
    ("ERNIE 4.5 Thinking", "baidu/ERNIE-4.5-21B-A3B-Thinking", of("Ernie4_5_MoeForCausalLM", "ernie4_5_moe")),
    ("LFM2.5, reasoning", "LiquidAI/LFM2.5-1.2B-Thinking", of("Lfm2ForCausalLM", "lfm2")),
    ("LFM2.5", "LiquidAI/LFM2.5-1.2B-Instruct", of("Lfm2ForCausalLM", "lfm2")),
    ("MiMo-V2-Flash", "XiaomiMiMo/MiMo-V2-Flash", of("MiMoV2FlashForCausalLM", "mimo_v2_flash")),
    ("MiMo-V2.5", "XiaomiMiMo/MiMo-V2.5-Pro", of("MiMoV2ForCausalLM", "mimo_v2")),
    ("LongCat-Flash", "meituan-longcat/LongCat-Flash-Chat", of("LongcatFlashForCausalLM", "longcat_flash")),
    ("Nemotron 3", "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16", of("NemotronHForCausalLM", "nemotron_h")),
    ("Olmo 3 Think", "allenai/Olmo-3-32B-Think", of("Olmo3ForCausalLM", "olmo3")),
    ("Olmo 3", "allenai/Olmo-3-7B-Instruct", of("Olmo3ForCausalLM", "olmo3")),
    ("Jamba 1.5", "ai21labs/AI21-Jamba-1.5-Mini", of("JambaForCausalLM", "jamba")),
    (
        "InternLM2.5",
        "internlm/internlm2_5-7b-chat",
        of("InternLM2ForCausalLM", "internlm2", auto_map={"AutoConfig": "a.B"}),
    ),
    ("Intern-S1", "internlm/Intern-S1", nested("InternS1ForConditionalGeneration", "interns1")),
    ("Apertus", "swiss-ai/Apertus-8B-Instruct-2509", of("ApertusForCausalLM", "apertus")),
    ("Laguna", "poolside/Laguna-M.1", of("LagunaForCausalLM", "laguna")),
    ("Trinity Thinking", "arcee-ai/Trinity-Large-Thinking", of("AfmoeForCausalLM", "afmoe")),
    ("Mellum 2 Thinking", "JetBrains/Mellum2-12B-A2.5B-Thinking", of("MellumForCausalLM", "mellum")),
    ("Mellum 2", "JetBrains/Mellum2-12B-A2.5B-Instruct", of("MellumForCausalLM", "mellum")),
    ("Ling 3", "inclusionAI/Ling-3.0-flash", of("BailingMoeV3ForCausalLM", "bailing_moe_v3")),
    ("Inkling", "thinkingmachines/Inkling", nested("InklingForConditionalGeneration", "inkling_mm_model")),
    ("Muse Glimmer", "meta-models/Muse-Glimmer-30B", nested("MuseGlimmerForConditionalGeneration", "muse_glimmer")),
    ("dots3", "dots-studio/dots3-note-prev", of("Dots3NoteForCausalLM", "dots3_note")),
]
"""Family, the setting `model`, config.json."""
