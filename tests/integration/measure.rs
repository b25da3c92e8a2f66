//! `verify` and `bench` as commands: what they print, and that they do what they say. Nothing here is timed.

use serde_json::Value;

use crate::common::*;

#[test]
fn verify_holds_every_op_of_the_cpu_to_plain_loops() {
    let table = good("verify --device cpu");
    for op in [
        "patchify",
        "matmul_t",
        "layer_norm",
        "add_layer_norm",
        "attention",
        "tower",
        "normalize_rows",
        "accumulate",
        "assign",
        "pairs_above",
        "best_earlier",
        "head",
    ] {
        assert!(
            table.lines().any(|line| line.starts_with(op)),
            "no line for {op}:\n{table}"
        );
    }
    assert!(table.contains("f16") && table.contains("bf16"), "{table}");
    assert!(table.trim_end().ends_with("checks passed"), "{table}");
}

#[test]
fn bench_gives_one_json_object_with_a_figure_for_each_stage_model_and_batch_size() {
    let text = good(
        "bench --device cpu --json --seconds 0 --pictures 3 --rows 300 --dims 32 --clusters 3 --model builtin --batch-size 1,3",
    );
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(report["machine"]["gemm_flops"].as_f64().unwrap() > 0.0);
    assert_eq!(report["request"]["rows"], 300);
    let stages = report["stages"].as_array().unwrap();
    let of = |name: &str| {
        stages
            .iter()
            .filter(|s| s["name"] == name)
            .collect::<Vec<_>>()
    };
    for name in [
        "read", "decode", "resize", "tower", "heads", "kmeans", "pairs", "write",
    ] {
        assert!(!of(name).is_empty(), "no stage {name} in {text}");
        for stage in of(name) {
            assert!(stage["value"].as_f64().unwrap() > 0.0, "{stage}");
            for key in [
                "unit",
                "higher_is_better",
                "params",
                "fraction_of_peak",
                "peak_bytes",
            ] {
                assert!(stage.get(key).is_some(), "{key} is missing in {stage}");
            }
        }
    }
    let batches: Vec<_> = of("tower")
        .iter()
        .map(|s| s["params"]["batch_size"].clone())
        .collect();
    assert_eq!(batches, [1, 3]);
    // Every hundredth row is a near-copy of the one before it.
    assert!(of("pairs")[0]["params"]["found"].as_u64().unwrap() >= 3);
}

#[test]
fn bench_refuses_what_it_does_not_know() {
    assert!(fails(2, "bench --stages tour").contains("the stages are read, decode"));
    assert!(fails(1, "bench --stages tower --model vit-x-99 --batch-size 1").contains("vit-x-99"));
}
