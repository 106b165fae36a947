//! Microseconds of forward and backward passes, median of repeated calls: `cargo bench`.

use firstlight_flash_attn::{backward, forward, Problem};
use std::time::Instant;

const REPEATS: usize = 15;

/// Median microseconds of a call, after one that warms up.
fn median(mut call: impl FnMut()) -> f64 {
    call();
    let mut times: Vec<f64> = (0..REPEATS)
        .map(|_| {
            let began = Instant::now();
            call();
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[REPEATS / 2]
}

fn main() {
    let shapes = [("causal", 512, 0, 12, true), ("grouped heads", 512, 0, 3, true), ("decode", 1, 4096, 3, false)];
    for (name, length, key_length, key_heads, causal) in shapes {
        let problem = Problem { batch: 1, length, heads: 12, head_size: 64, key_length, key_heads, causal, scale: None };
        let keys = if key_length == 0 { length } else { key_length } * key_heads * 64;
        let numbers = |count: usize| (0..count).map(|at| (at % 17) as f32 / 8.0 - 1.0).collect::<Vec<_>>();
        let (query, key) = (numbers(length * 12 * 64), numbers(keys));
        let found = forward(&problem, &query, &key, &key, None).unwrap();
        let there = median(|| drop(forward(&problem, &query, &key, &key, None).unwrap()));
        let back = median(|| drop(backward(&problem, &query, &query, &key, &key, None, &found).unwrap()));
        println!("{name}: forward {there:.0} us, backward {back:.0} us (12 heads of 64, {length} queries)");
    }
}
