"""T5Gemma checkpoints in google-deepmind/gemma's layout, written from the weights of a PyTorch model."""

import numpy as np
import orbax.checkpoint as ocp


def tree_of(model, transposed=()):
    """The nested tree of a transformers T5Gemma. ``transposed``: stacks whose gates have the inner width first."""
    state = {name.removeprefix("model."): weight.numpy() for name, weight in model.state_dict().items()}

    def norms(name, parts):
        out = {}
        for ours, theirs in parts.items():
            for place in ("pre", "post"):
                out[f"{place}_{theirs}_norm"] = {"scale": state[f"{name}.{place}_{ours}_layernorm.weight"]}
        return out

    def attention(name, shape, joined):
        def heads(one):  # [heads · head_dim, width] → [heads, width, head_dim]
            weight = state[f"{name}.{one}_proj.weight"]
            return np.swapaxes(weight.reshape(-1, shape.head_dim, weight.shape[1]), 1, 2)

        query, key, value = map(heads, "qkv")
        out = state[f"{name}.o_proj.weight"].T
        kernels = {"attn_vec_einsum": out.reshape(-1, shape.head_dim, out.shape[-1])}
        if joined and len(query) == len(key):
            kernels["qkv_einsum"] = np.stack([query, key, value])
        else:
            kernels |= {"q_einsum": query, "kv_einsum": np.stack([key, value])}
        return {name: {"w": array} for name, array in kernels.items()}

    def layer(stack, index, shape):
        name, parts = f"{stack}.layers.{index}", {"self_attn": "attention", "feedforward": "ffw"}
        gates = np.stack([state[f"{name}.mlp.{one}_proj.weight"] for one in ("gate", "up")])  # inner width first
        feed_forward = {
            "gating_einsum": gates if stack in transposed else np.swapaxes(gates, 1, 2),
            "linear": state[f"{name}.mlp.down_proj.weight"].T,
        }
        out = {"attn": attention(f"{name}.self_attn", shape, True), "mlp": feed_forward}
        if stack == "decoder":
            parts["cross_attn"] = "cross_attention"
            out["cross_attn"] = attention(f"{name}.cross_attn", shape, False)
        return out | norms(name, parts)

    tree = {}
    for stack in ("encoder", "decoder"):
        shape = getattr(model.config, stack)
        tree[stack] = {f"layer_{index}": layer(stack, index, shape) for index in range(shape.num_hidden_layers)}
        tree[stack]["embedder"] = {"input_embedding": state[f"{stack}.embed_tokens.weight"]}
        tree[stack]["final_norm"] = {"scale": state[f"{stack}.norm.weight"]}
    return tree


def flat_tree(tree):
    """The same arrays as the released checkpoints of Gemma have them: a dictionary of paths, the last part separate."""
    out = {}

    def walk(node, path):
        for name, child in node.items():
            if isinstance(child, dict):
                walk(child, (*path, name))
            elif path[-1] == "mlp":
                out["/".join((*path, name))] = {"w": child}
            else:
                out.setdefault("/".join(path), {})[name] = child

    walk(tree, ("transformer",))
    return out


def save(tree, folder, *, ocdbt=True):
    """Writes ``tree`` with Orbax."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=ocdbt)) as saver:
        saver.save(folder.absolute(), tree)
    return folder


def copied(tree):
    """A copy of the dictionaries of ``tree``, which share its arrays."""
    return {name: copied(one) if isinstance(one, dict) else one for name, one in tree.items()}
