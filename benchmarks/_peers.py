"""The peers: whether they are installed, their number of threads, and on whose memory they work.

May import: the peers, by `peer` alone. Do not break: a missing peer is a printed line, never silence; without
`--own-tables` every peer works on the very memory it is given.
"""

import importlib
import os
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def peer(args, module, label):
    """The module of a peer; None, and a line that says so, where it is missing or was not asked for."""
    if args.only and label not in args.only.split(","):
        print(f"{label}: not asked for")
        return None
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        print(f"{label}: not installed")
    except (ImportError, OSError) as error:
        print(f"{label}: cannot be imported ({error})")
    return None


def load_torch(args):
    """torch, or None."""
    torch = peer(args, "torch", "torch")
    if torch is not None:
        torch.set_num_threads(args.threads)
        warnings.filterwarnings("ignore", message="Sparse invariant checks")
    return torch


def load_tensorflow(args):
    """tensorflow, or None."""
    tf = peer(args, "tensorflow", "tensorflow")
    if tf is not None and tf.config.threading.get_intra_op_parallelism_threads() != args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    return tf


def load_jax(args):
    """jax, or None."""
    jax = peer(args, "jax", "jax")
    if jax is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", True)  # the ids are int64
    return jax


def torch_weight(torch, args, table_vd):
    """The table as a tensor: the same memory, or a copy as torch allocates it."""
    weight = torch.from_numpy(table_vd)
    return weight.clone() if args.own_tables else weight


def fbgemm_module(args, table_vd, optimizer="EXACT_SGD", **hyper):
    """FBGEMM's table-batched kernel for training on CPU, with one table and sum pooling; None if it is not there."""
    tbe = peer(args, "fbgemm_gpu.split_table_batched_embeddings_ops_training", "fbgemm")
    if tbe is None:
        return None
    import torch

    torch.set_num_threads(args.threads)
    spec = (*table_vd.shape, tbe.EmbeddingLocation.HOST, tbe.ComputeDevice.CPU)
    module = tbe.SplitTableBatchedEmbeddingBagsCodegen([spec], optimizer=getattr(tbe.OptimType, optimizer), **hyper)
    flat = torch.from_numpy(table_vd).view(-1)
    if args.own_tables:
        module.weights_host.data.copy_(flat)
    else:
        module.weights_host.data = flat
    return module
