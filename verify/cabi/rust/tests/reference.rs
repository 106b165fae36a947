//! The crate's results against attention written out in f64.

use firstlight_flash_attn::{backward, forward, Element, Problem};

const PROBLEMS: [(usize, usize, usize, usize); 3] = [(1, 1, 1, 1), (2, 7, 3, 5), (1, 70, 2, 64)];

/// Output, logarithms of the sums, and gradients of query, key and value.
type Exact = [Vec<f64>; 5];

fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut state = seed;
    let draw = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1 << 23) as f64 - 1.0
    };
    (0..count).map(draw).collect()
}

fn reference(problem: &Problem, grad: &[f64], query: &[f64], key: &[f64], value: &[f64]) -> Exact {
    let Problem { batch, length, heads, head_size, causal, scale, .. } = *problem;
    let scale = scale.unwrap_or(1.0 / (head_size as f64).sqrt());
    let row = |b: usize, i: usize, h: usize| ((b * length + i) * heads + h) * head_size;
    let product = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
    let mut found = [(); 5].map(|()| vec![0.0; query.len()]);
    found[1] = vec![0.0; batch * heads * length];
    for (b, h, i) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..length).map(move |i| (b, h, i)))) {
        let at = row(b, i, h)..row(b, i, h) + head_size;
        let seen = if causal { i + 1 } else { length };
        let keys: Vec<_> = (0..seen).map(|j| row(b, j, h)..row(b, j, h) + head_size).collect();
        let scores: Vec<f64> = keys.iter().map(|j| scale * product(&query[at.clone()], &key[j.clone()])).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        found[1][(b * heads + h) * length + i] = most + sum.ln();
        let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp() / sum).collect();
        let slopes: Vec<f64> = keys.iter().map(|j| product(&grad[at.clone()], &value[j.clone()])).collect();
        let mean = product(&weights, &slopes);
        for (j, (weight, slope)) in keys.iter().zip(weights.iter().zip(&slopes)) {
            for d in 0..head_size {
                found[0][at.start + d] += weight * value[j.start + d];
                found[2][at.start + d] += scale * weight * (slope - mean) * key[j.start + d];
                found[3][j.start + d] += scale * weight * (slope - mean) * query[at.start + d];
                found[4][j.start + d] += weight * grad[at.start + d];
            }
        }
    }
    found
}

fn compare<T: Element + Into<f64>>(tolerance: f64, narrow: fn(f64) -> T) {
    for (batch, length, heads, head_size) in PROBLEMS {
        for (causal, scale) in [(false, None), (true, None), (false, Some(0.3)), (true, Some(0.3))] {
            let problem = Problem { batch, length, heads, head_size, causal, scale, ..Problem::default() };
            let inputs: Vec<Vec<T>> = (1..5)
                .map(|seed| numbers(seed, batch * length * heads * head_size).into_iter().map(narrow).collect())
                .collect();
            let wide: Vec<Vec<f64>> = inputs.iter().map(|one| one.iter().map(|&x| x.into()).collect()).collect();
            let exact = reference(&problem, &wide[0], &wide[1], &wide[2], &wide[3]);
            let attention = forward(&problem, &inputs[1], &inputs[2], &inputs[3], None).unwrap();
            let grads = backward(&problem, &inputs[0], &inputs[1], &inputs[2], &inputs[3], None, &attention).unwrap();
            let found = [attention.out, attention.logsumexp, grads.query, grads.key, grads.value];
            for (part, (one, right)) in found.iter().zip(&exact).enumerate() {
                let most = right.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
                for (x, y) in one.iter().zip(right) {
                    let error = ((*x).into() - y).abs() / most;
                    assert!(error <= tolerance, "part {part} of {problem:?} is off by {error:e}");
                }
            }
        }
    }
}

#[test]
fn single_precision_equals_the_reference() {
    compare::<f32>(1e-5, |x| x as f32);
}

#[test]
fn double_precision_equals_the_reference() {
    compare::<f64>(1e-12, |x| x);
}

#[test]
fn slices_of_another_size_do_not_reach_the_library() {
    let problem = Problem { batch: 1, length: 2, heads: 1, head_size: 4, ..Problem::default() };
    let error = forward::<f32>(&problem, &[0.0; 8], &[0.0; 7], &[0.0; 8], None).unwrap_err();
    assert_eq!((error.status, error.to_string().as_str()), (None, "key has 7 elements, the problem 8"));
    let endless = Problem { length: usize::MAX, ..problem };
    assert_eq!(forward::<f32>(&endless, &[], &[], &[], None).unwrap_err().status, None);
}

#[test]
fn refusals_of_the_library_are_errors_with_its_words() {
    let nothing = Problem { batch: 1, length: 0, heads: 1, head_size: 4, ..Problem::default() };
    let error = forward::<f32>(&nothing, &[], &[], &[], None).unwrap_err();
    assert_eq!(error.status, Some(4));
    assert_eq!(error.to_string(), "a size is too small: length is 0, which is below 1");
    let bent = Problem { length: 1, scale: Some(f64::NAN), ..nothing };
    assert_eq!(forward::<f32>(&bent, &[0.0; 4], &[0.0; 4], &[0.0; 4], None).unwrap_err().status, Some(10));
}

/// The last four of nine tokens, with two heads of keys for four of queries, and a window of three keys: each is what it is alone.
#[test]
fn a_cache_with_grouped_heads_and_a_window_equals_its_parts() {
    let part = Problem { batch: 1, length: 4, heads: 4, head_size: 5, key_length: 9, key_heads: 2, ..Problem::default() };
    let [grad, query] = [1, 2].map(|seed| numbers(seed, 4 * 4 * 5));
    let [key, value] = [3, 4].map(|seed| numbers(seed, 9 * 2 * 5));
    let hidden = |i: usize, j: usize| j > i + 5 || j + 2 < i + 5;
    let mask: Vec<f64> = (0..4 * 9).map(|at| if hidden(at / 9, at % 9) { f64::NEG_INFINITY } else { 0.0 }).collect();
    let found = forward(&part, &query, &key, &value, Some(&mask)).unwrap();
    let grads = backward(&part, &grad, &query, &key, &value, Some(&mask), &found).unwrap();
    let alone = Problem { batch: 1, length: 1, heads: 1, head_size: 5, key_length: 3, ..Problem::default() };
    let (mut grad_key, mut grad_value) = (vec![0.0; key.len()], vec![0.0; value.len()]);
    for (i, h) in (0..4).flat_map(|i| (0..4).map(move |h| (i, h))) {
        let at = (i * 4 + h) * 5..(i * 4 + h + 1) * 5;
        let seen: Vec<usize> = (i + 3..i + 6).flat_map(|j| (0..5).map(move |d| (j * 2 + h / 2) * 5 + d)).collect();
        let [own_key, own_value] = [&key, &value].map(|all| seen.iter().map(|&place| all[place]).collect::<Vec<_>>());
        let right = forward(&alone, &query[at.clone()], &own_key, &own_value, None).unwrap();
        assert_near(&found.out[at.clone()], &right.out);
        let slopes = backward(&alone, &grad[at.clone()], &query[at.clone()], &own_key, &own_value, None, &right).unwrap();
        assert_near(&grads.query[at], &slopes.query);
        for (&place, (one, other)) in seen.iter().zip(slopes.key.iter().zip(&slopes.value)) {
            grad_key[place] += one;
            grad_value[place] += other;
        }
    }
    assert_near(&grads.key, &grad_key);
    assert_near(&grads.value, &grad_value);
    let short = forward(&part, &query, &key, &value, Some(&mask[1..])).unwrap_err();
    assert_eq!(short.to_string(), "mask has 35 elements, the problem 36");
}

fn assert_near(found: &[f64], right: &[f64]) {
    assert_eq!(found.len(), right.len());
    assert!(found.iter().zip(right).all(|(one, other)| (one - other).abs() <= 1e-12), "{found:?} {right:?}");
}
