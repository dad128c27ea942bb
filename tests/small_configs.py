"""Small configs of every causal architecture that transformers has, with random models to match."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig

BLOCKS, VOCABULARY, WIDTH = 3, 80, 32

# what numbers are called -> a small one that fits the others
_SIZES = (
    (r"(decoder_|unpadded_)?vocab_size|vocab_size_per_layer_input", VOCABULARY),
    (r"hidden_size|n_embd|d_model|(input_|output_)?embedding_size|emb_dim|embedding_dim|word_embed_proj_dim", WIDTH),
    (r"attention_hidden_size|lru_width|backbone_hidden_size", WIDTH),
    (r"num_hidden_layers|n_layers?|num_layers|(num_)?(en|de)coder_layers|num_blocks|num_layers_per_stack", BLOCKS),
    (r"(num_|n_|index_n_)?((en|de)coder_)?(attention_)?heads?|swa_num_attention_heads|mamba_(n|num)_heads", 4),
    (r"num_attention_heads|linear_num_(key_|value_)?heads", 4),
    (r"num_key_value_heads|num_kv_heads|swa_num_key_value_heads|num_query_groups", 2),
    (r"(v_|qk_nope_|qk_rope_|swa_|index_|linear_|linear_key_|linear_value_|global_|attention_)?head_dim", 8),
    (r"kv_channels|d_head|dim_head|attention_head_size|query_pre_attn_scalar", 8),
    (r"rotary_dim", 4),
    (r".*intermediate_size|.*ffn_dim|dff|dim_ff|d_inner|feed_forward_size|.*ffn_hidden_size|intermediate_size_mlp", 64),
    (r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|zero_expert_num", 4),
    (r"num_experts_per_tok(en)?|moe_topk|moe_k", 2),
    (r"n_group|topk_group|num_expert_group|n_groups|mamba_n_?groups|o_groups|split_ngram_parts", 1),
    (
        r"max_position_embeddings|n_positions|n_ctx|max_seq_len|model_max_length|context_length|max_target_positions",
        128,
    ),
    (r"kv_lora_rank|[qo]_lora_rank|mamba_dt_rank|time_step_rank|laurel_rank|gated_norm_rank|adapter_rank", 8),
    (r"hc_lowrank|d_rel|mamba_d_state|state_size|ssm_state_size|make_ngram_vocab_size_divisible_by", 8),
    (r"mamba_d_head|mamba_head_?dim|chunk_size|mamba_chunk_size|block_size|hidden_size_per_layer_input", 16),
    (r"router_hidden_size|sliding_window|attention_window_size|sliding_window_size", 16),
    (r"mamba_d_ssm|ngram_vocab_size_base", 64),
    (r"num_kv_shared_layers|first_k_dense_replace|num_dense_layers|num_nextn_predict_layers|moe_layer_start_index", 0),
)
_PATTERNS = tuple((re.compile(pattern), small) for pattern, small in _SIZES)
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_TOKEN = re.compile(r"(pad|bos|eos|unk|sep|cls|mask|decoder_start|forced_eos)_token_id")

# what some configs want beside that
_OWN: dict[str, dict[str, Any]] = {
    "DeepseekV2Config": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "Dots1Config": {"head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "Dots3NoteTextConfig": {"num_key_value_heads": 4},
    "GPTNeoConfig": {"attention_types": [[["global", "local", "global"], 1]]},
    "Gemma3nTextConfig": {"altup_num_inputs": 2},
    "HunYuanDenseV1Config": {"head_dim": 8},
    "HunYuanMoEV1Config": {"head_dim": 8},
    "Lfm2MoeConfig": {"layer_types": ["conv", "full_attention", "conv"]},
    "Mamba2Config": {"head_dim": 16},
    "MinistralConfig": {"head_dim": 8},
    "NemotronConfig": {"head_dim": 8, "num_key_value_heads": 2},
    "Qwen4ExpTextConfig": {"ple_embed_dim": 128},
    "ReformerConfig": {"is_decoder": True, "axial_pos_embds": False},
    "RoCBertConfig": {"pronunciation_vocab_size": 9, "shape_vocab_size": 9},
    "ZambaConfig": {
        "layers_block_type": ["hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "ZayaConfig": {"num_experts_per_tok": 1},
}


def small_config(kind: type[PreTrainedConfig], **changes: Any) -> PreTrainedConfig:
    """A config of this kind with some thousand parameters. Raises whatever transformers raises where the numbers of
    this file do not fit together for it.
    """
    usual = kind().to_dict()
    numbers = _small(usual)
    for name in getattr(kind, "sub_configs", {}):
        if isinstance(usual.get(name), dict):
            numbers[name] = _small(usual[name])
    return kind(**{**numbers, **_OWN.get(kind.__name__, {}), **changes})


def _small(usual: dict[str, Any]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for name, value in usual.items():
        if _TOKEN.fullmatch(name):
            numbers[name] = _TOKENS.get(name, 3)
        elif isinstance(value, int) and not isinstance(value, bool) and value:
            fitting = (small for pattern, small in _PATTERNS if pattern.fullmatch(name))
            found = next(fitting, None)
            if found is not None:
                numbers[name] = found
    if "qk_rope_head_dim" in usual:  # latent attention: each head has its own keys, of two parts
        numbers.pop("head_dim", None)
        if "num_key_value_heads" in numbers:
            numbers["num_key_value_heads"] = numbers["num_attention_heads"]
    return numbers


def random_model(config: PreTrainedConfig, seed: int = 0) -> Any:
    """A causal language model of this config, none of whose parameters is zero or one: they would hide mistakes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if not parameter.isfinite().all() or not parameter.abs().sum():
                parameter.data.normal_(0, 0.1)
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


def causal_configs() -> list[type[PreTrainedConfig]]:
    """Every config class that transformers has a causal language model for, each once."""
    return list(dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING.keys()))
