"""Each sentence of the README that claims something names the tests, or the benchmark, that fail when it is untrue.

Do not break: a sentence is found by a phrase of it, so numbers may change and claims may not appear unnoticed; who
writes a new sentence adds a line to CLAIMS with what holds it, or, if it claims nothing, to WORDS. Runs in a checkout.
"""

import ast
import json
import re
import tomllib
from pathlib import Path

import numpy as np

import fastembed

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# A phrase of the sentence: tests as `file::test` without `test_` and `.py`, or files that measure it.
CLAIMS = {
    # ---- the first page
    "from a wheel of 1 MB that needs NumPy alone": "packaging::numpy_is_all_that_is_required "
    "huge::more_rows_than_int32 .ci/run",
    "A training step on a": "benchmarks/training_step.py",
    "A pooled look-up takes": "benchmarks/forward.py",
    "repeated id is the sum of its parts": "hypothesis::one_step_of_sgd ops::hot_rows",
    "tested against float64 formulas": "modes::oracle optimizers_keras::row_sparse_gradients against_torch::fbgemm",
    "Ids stay 64-bit": "huge::such_ids_are_no_rows_of_a_small_table bad_input::ids bad_input::position_of_an_id",
    "The same bits for any number of threads": "threads::training isa::same_bits isa::same_bits_in_all_modes",
    "The wheel has": ".ci/run",
    "more than `import numpy`": "benchmarks/overhead.py",
    "never a second table": "benchmarks/memory.py layers::a_gradient_makes_no_table",
    "**Typed.**": "types::stubs_are_true types::a_program_passes types::mistakes_are_found",
    "Python 3.11 or newer and a C compiler": "packaging::pythons_are_the_same_wherever_they_are_listed .ci/run",
    "trains word vectors": ".ci/run",
    "The distribution is called": "readme::names",
    "`import fastembed` says so and how to cure it": "floors::the_other_fastembed",
    # ---- vocabularies that change
    "A vocabulary that changes": "resize::training_goes_on_as_in_a_table_of_that_size resize::vocabularies",
    "grow in place": "resize::a_large_table_grows_in_place resize::a_table_in_a_file benchmarks/resize.py",
    # ---- Keras
    "Arguments, identifiers, configs": "keras29::calls keras3::layer_configs formats_keras::our_layer "
    "formats::files_of_tensorflow_2_9 formats::names_that_keras_refuses against_keras::look_ups_and_masks",
    "the gradient of a table's regularizer": "keras3::gradients_with_regularizers "
    "keras29::gradient_with_a_regularizer_is_sparse regularizers::the_table_penalty_comes_once_for_each_row",
    "a constraint with `axis=1`": "keras3::constrained_training constraints::sparse_updates",
    "and LoRA": "lora::a_look_up_costs_what_its_batch_costs benchmarks/lora.py",
    "says which is which": "keras29::the_page_shows_the_differences keras29::every_fact_is_looked_at",
    # ---- bridges
    "one step for the rows of the batch": "keras::as_a_dense_gradient torch::the_same_model jax::trains_as_jax_does",
    "Nothing that the framework sees": "keras::memory torch::memory jax::memory",
    "real layers on TensorFlow, torch and JAX": "keras::ways_to_run keras::convert keras::save_load_continue "
    "keras::masks benchmarks/keras_step.py",
    "torch's signatures": "torch::embedding torch::bags torch::state_dict torch::compile benchmarks/torch_step.py",
    "inside `jit`, `grad`, `scan`, `vmap`": "jax::scan_takes_steps_in_order jax::vmap benchmarks/jax_step.py",
    "in a `Pipeline`": "sklearn::pipeline interop::arrow_without_a_copy interop::polars_without_a_copy "
    "interop::pandas_of_arrow interop::awkward interop::tensorflow interop::torch interop::dlpack_elsewhere",
    "imports none of them": "floors::no_framework_is_imported",
    "has a text classifier": "keras::the_example torch::example jax::example sklearn::example",
    # ---- files of others
    "torch state dicts, word2vec": "formats_numpy::round_trip formats_safetensors::theirs formats_torch::theirs_here "
    "formats_words::theirs formats_words::theirs_of_gensim formats_words::gensim_is_not_written "
    "floors::no_framework_is_imported formats_torch::nothing_is_run formats_words::nothing_is_run",
    "A table larger than memory goes into a file": "formats_streamed::convert_without_memory_for_the_table",
    "has a table of formats": "formats_streamed::docs main::convert main::info main::estimate main::as_a_program",
    # ---- optimizers
    "All optimizers of Keras 3": "against_keras::optimizer_defaults_and_names "
    "optimizers_keras::every_optimizer_is_here optimizer_configs::all_are_here "
    "optimizers_keras::what_the_base_class_gives against_torch::fbgemm",
    'What a step does to rows without a gradient is an argument: `untouched="skip"`': "modes::oracle "
    "optimizer_lapses::lapses against_torch::sparse_steps benchmarks/updates.py",
    "has a table of all with their state": "optimizer_docs::all_optimizers_have_a_row optimizer_docs::errors "
    "benchmarks/modes.py",
    # ---- dtypes
    "A table is bound by memory": "benchmarks/dtypes.py",
    "nothing else in a program changes": "dtypes::against_float64 dtypes::look_ups_are_those_of_the_decoded_table",
    "rounded stochastically": "dtypes::small_updates_add_up dtypes::the_mean_is_right dtypes::choices_are_independent "
    "dtypes::threads_train_alike",
    "What each dtype costs in quality": "dtype_docs::tables_are_those_that_were_measured dtype_docs::claims_in_words",
    # ---- larger than memory
    "can live in files and be trained there": "files::training_goes_on "
    "lazy::rows_have_the_bits_that_they_would_have_had benchmarks/huge.py",
    "Files are plain `.npy`": "files::flush_writes_the_table layers::layer_in_a_file",
    "One process writes": "files::a_second_writer_is_told_who_the_first_is "
    "files::the_lock_of_a_dead_process_is_taken_over files::readers_see_the_writer_and_cannot_write",
    "is a `MemoryError` with numbers": "estimate::what_cannot_fit_is_refused_before_a_page_is_taken",
    "trains 30 GB on a machine with 24": "benchmarks/huge.py",
    # ---- checkpoints
    "all that a training needs to go on with the same bits": "checkpoint::goes_on checkpoint_delta::extra "
    "checkpoint_delta::the_random_state_of_the_library",
    "written in chunks of 16 MB": "readme::chunks checkpoint_crash::every_flipped_bit benchmarks/checkpoints.py",
    # ---- how fast
    "Milliseconds for each step": "readme_numbers::the_picture_was_drawn_from_the_raw_file",
    "measures and writes this section": "benchmarks/readme.py",
    "each library with the memory its users get": "readme_numbers::the_machine_is_named "
    "readme_numbers::documents_have_the_numbers_of_the_raw_file benchmarks/training_step.py benchmarks/forward.py",
    "| pooled look-up": "benchmarks/forward.py",
    "| look-up": "benchmarks/forward.py",
    "| step with": "benchmarks/training_step.py",
    # ---- what's where
    "Imports go down this list only": "floors::imports_go_down",
    "A step flows one way": "floors::imports_go_down",
    "Ids are checked once": "ops::gather ops::pool_and_gradients",
    "keeps the ids and the upstream gradient as they are": "layers::gradients_hold_no_expanded_values "
    "ops::hot_rows threads::update",
    # ---- guarantees
    "raise before anything is written": "bad_input::ids bad_input::row_splits bad_input::out bad_input::upstream "
    "bad_input::a_wrong_id_in_the_last_gradient modes::nothing_is_written hypothesis::modes",
    "depend on the arguments alone": "threads::training isa::same_bits_in_all_modes",
    "Sums run in the order of the ids": "ops::hot_rows initializers::philox_is_the_published_one initializers::pieces "
    "initializers::a_row_does_not_depend_on_the_number_of_rows "
    "initializers::the_scale_alone_depends_on_the_number_of_rows",
    "uses NumPy's linear algebra": "orthogonal::chunks_and_lapack_agree",
    "`gradient` is a pure function": "readme::look_ups_and_gradients_change_nothing "
    "lazy::a_reader_makes_rows_for_itself_alone modes::reads_are_up_to_date regularizers::losses_and_their_order",
    "Updates of one table from several Python threads": "threads::updates_of_a_table_wait_for_each_other "
    "threads::eight_python_threads_on_one_layer",
    "A save is there whole or not at all": "saving::killed_at_any_time saving::full_disk",
    "A table in a file whose process dies": "resize::a_process_that_dies_leaves_a_whole_table",
    "gives the bits of training that never stopped": "checkpoint::goes_on checkpoint_delta::goes_on "
    "checkpoint_delta::beside_a_training",
    "Readers beside a writer": "checkpoint_crash::readers_beside_a_writer",
    "Kills at any moment": "checkpoint_crash::killed_at_any_time checkpoint_crash::full_disk "
    "checkpoint_crash::every_fsync_may_fail checkpoint_crash::every_flipped_bit "
    "checkpoint_crash::files_that_are_cut_or_gone",
    "take the memory of a chunk for each thread": "checkpoint_crash::memory_is_that_of_chunks",
    "Files of other libraries are data": "configs::no_name_is_imported formats_torch::nothing_is_run "
    "formats_words::nothing_is_run formats_numpy::objects_are_not_unpickled formats::links_to_elsewhere "
    "formats::data_elsewhere formats_streamed::memory",
    "Those of Keras need": "formats::without_h5py packaging::each_extra_that_a_document_names_exists",
    "Importing the package starts no thread": "floors::nothing_lasts",
    # ---- limits
    "Rows are pooled and stepped in float32": "float64::oracle float64::state_dtype dtypes::against_float64",
    "is not there for Lamb": "optimizer_docs::errors optimizer_docs::all_optimizers_have_a_row",
    "replay missed steps one by one": "optimizer_docs::betas_of_adam optimizer_lapses::no_closed_form "
    "optimizer_lapses::nadam_at_any_step",
    "int4 with several scales": "formats_keras::their_int4 formats::our_quantised_layers_are_written_as_float32",
    "`lazy=True` is not there for": "lazy::what_is_refused lazy::optimizers_that_need_all_rows",
    "A state directory": "files::state_that_was_not_flushed_is_refused files::a_checkpoint_restores_into_files",
    "`remap` takes the memory": "benchmarks/resize.py",
    "A bad chunk of a checkpoint": "checkpoint_crash::the_bytes_of_a_bad_chunk checkpoint_crash::verify",
    "ids in one update": "huge::too_many_ids_for_one_update",
    "must be whole and exact": "bad_input::ids keras29::fractional_ids",
    "There are as many threads as": "threads::affinity threads::quota threads::omp_num_threads threads::threadpoolctl "
    "threads::data_loader threads::joblib fork::pool_of_workers",
    "A fork is safe": "fork::fork fork::fork_with_torch fork::fork_while_a_thread_trains",
    "With torch in the process": "threads::beside_torch benchmarks/beside_torch.py",
    "Those of a wheel sleep": "threads::an_own_runtime_sleeps",
    "Ctrl-C is heard": "interrupt::making_a_table interrupt::a_step_is_whole interrupt::saving_and_loading "
    "interrupt::resizing interrupt::at_any_moment",
    "steps may take ten times as long": "benchmarks/README.md",
    "Bridges cost": "benchmarks/keras_step.py benchmarks/torch_step.py benchmarks/jax_step.py",
    "Tested on Linux": ".ci/run",
    "builds without OpenMP": ".ci/run",
    "pins an instruction set": "isa::same_bits isa::unknown",
    "prints what a bug report needs": "layers::show_config",
    "BSD-3-Clause": "packaging::the_licence_is_named_and_there",
}
# Phrases of sentences that claim nothing of the library.
WORDS = [
    "Embedding tables for the CPU",
    "Documents:",
    "is another library",
    "The framework computes the dense part",
    "In short",
    "the pages beside it, where each thing below",
    "A look-up during an update may see",
    "HDF5 itself",
    "idle threads spin while they wait",
    "a real GPU was not there",
    "To change it",
]


def sentences(text):
    """The sentences outside code, headings and the table of files; a row of a table is one."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"## What's where.*?\n\n(?=[^|\n])", "", text, flags=re.DOTALL)
    text = re.sub(r"^(#.*|\|.*\|\n\| ---.*)\n", "\n", text, flags=re.MULTILINE)
    found = []
    for block in re.split(r"\n\s*\n|\n(?=- |\|)", text):
        block = " ".join(block.split())
        parts = [block] if block.startswith("|") else re.split(r"(?<=\.) (?=[A-Z`*\[0-9])", block)
        found += [part for part in parts if part]
    return found


SENTENCES = sentences(README)


def test_sentences():
    text = "# A\nOne `b.c` is. Two\nis; three. `Four` is:\n\n```\nNo.\n```\n- Five.\n\n| a |\n| --- |\n| 6 |\n"
    assert sentences(text) == ["One `b.c` is.", "Two is; three.", "`Four` is:", "- Five.", "| 6 |"]


def test_every_sentence_is_held():
    """Or is known to claim nothing."""
    phrases = [*CLAIMS, *WORDS]
    assert [sentence for sentence in SENTENCES if not any(phrase in sentence for phrase in phrases)] == []


def test_no_phrase_is_left_over():
    assert [phrase for phrase in [*CLAIMS, *WORDS] if not any(phrase in sentence for sentence in SENTENCES)] == []


def functions_of(file):
    tree = ast.parse((ROOT / "tests" / f"test_{file}.py").read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_what_holds_a_claim_is_there():
    names = {name for held_by in CLAIMS.values() for name in held_by.split()}
    tests = {tuple(name.split("::")) for name in names if "::" in name}
    known = {file: functions_of(file) for file in {file for file, _ in tests}}
    assert [f"{file}::{test}" for file, test in sorted(tests) if f"test_{test}" not in known[file]] == []
    files = {name for name in names if "::" not in name}
    if not (ROOT / ".ci").exists():  # a source distribution has no names with a dot before them
        files.discard(".ci/run")
    assert [name for name in sorted(files) if not (ROOT / name).is_file()] == []


# ---- the claims that no other test holds -------------------------------------------------------------


def test_every_file_of_the_table_is_there():
    """In "What's where" the first name of a cell has its folder, the others lie beside it or inside of it."""
    table = README.partition("## What's where")[2].partition("\n\nImports go down")[0]
    cells = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")][2:]
    named = set()
    for cell in cells:
        first, *more = re.findall(r"`([^`]+)`", cell)
        first = next(ROOT.glob(first.rstrip("/")), ROOT / first)
        paths = [first]
        for name in more:
            paths += [folder / name for folder in (first, first.parent, ROOT) if (folder / name).exists()][:1]
        assert len(paths) == 1 + len(more), cell
        assert all(path.exists() for path in paths), cell
        named |= {path.resolve() for path in paths}
    package = ROOT / "fastembed"
    modules = {path for path in [*package.glob("*.py"), *package.glob("*/")] if not path.name.startswith("_")}
    assert {path.name for path in modules - named if not path.name.startswith((".", "_"))} == set()


def test_names():
    """A distribution with another name than the package: the other one has that."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "fastembed-cython"
    assert fastembed.__name__ == "fastembed"


def test_chunks(tmp_path):
    """Of 16 MB, the last one shorter, and a checksum of each beside that of the head."""
    words = fastembed.Embedding(150_000, 64, name="words")
    words.build()
    fastembed.Checkpoint(words).save(tmp_path / "saved")
    (listed,) = (tmp_path / "saved").glob("*/save.json")
    (file,) = json.loads(listed.read_text(encoding="utf-8"))["files"].values()
    assert file["chunk"] == 16 << 20
    assert len(file["crc32"].split()) == 1 + -(-words.embeddings.nbytes // (16 << 20))


def test_look_ups_and_gradients_change_nothing(rng):
    """Neither the layer, nor the arguments; and they give the same again."""
    bag = fastembed.EmbeddingBag(20, 5, embeddings_regularizer="l2")
    bag.build()
    ids, weights = rng.integers(0, 20, (6, 3)), rng.random((6, 3)).astype(np.float32)
    upstream = rng.random((6, 5)).astype(np.float32)
    mine = [bag.embeddings.numpy(), ids, weights, upstream]
    before = [array.copy() for array in mine]
    first, again = (
        (
            bag(ids, weights),
            bag.gradient(ids, upstream, weights).to_dense(),
            bag.weights_gradient(ids, upstream, weights),
        )
        for _ in range(2)
    )
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(mine, before, strict=True))
