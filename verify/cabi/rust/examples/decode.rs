//! A token after a cache of keys: what a model's decoder asks, with eight heads of queries and two of keys.

use firstlight_flash_attn::{forward, Error, Problem};

fn main() -> Result<(), Error> {
    let (cache, heads, key_heads, head_size) = (256, 8, 2, 64);
    let problem = Problem { batch: 1, length: 1, heads, head_size, key_length: cache, key_heads, ..Problem::default() };
    // The query equals the key of token 100 and of no other, so nearly all of the weight is on its value.
    let key: Vec<f32> = (0..cache * key_heads * head_size)
        .map(|at| if at / (key_heads * head_size) == 100 { 2.0 } else { (at % 3) as f32 - 1.0 })
        .collect();
    let value: Vec<f32> = (0..key.len()).map(|at| (at / (key_heads * head_size)) as f32).collect();
    let query = vec![2.0; heads * head_size];
    let found = forward(&problem, &query, &key, &value, None)?;
    println!("the token sees token {:.1} of {cache}", found.out[0]);
    Ok(())
}
