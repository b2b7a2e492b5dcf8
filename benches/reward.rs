//! Times of the diversity penalty: attacks compared with a pool of successful ones, by Self-BLEU and by nearest
//! neighbours. Prints medians; `benches/peers/reward.py` does the same work with NLTK, sacrebleu and NumPy.
//!
//! `cargo bench --bench reward`.

use std::time::Instant;

use rand::Rng;
use triplay::game::{PoolSimilarity, WidthError};
use triplay::store::Seed;

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ATTACKS: usize = 4096;
const POOL: usize = 4096;
const WORDS: u32 = 600;

/// Texts of 12 to 20 words, small numbers more often than large ones, as words are in a language.
fn texts(count: usize, name: &str) -> Vec<String> {
    let mut stream = Seed::from_u64(1).stream(name);
    let mut word = || format!("w{}", (f64::from(WORDS) * stream.random::<f64>().powi(3)) as u32);
    (0..count).map(|i| (0..12 + i % 9).map(|_| word()).collect::<Vec<_>>().join(" ")).collect()
}

fn embeddings(count: usize, width: usize, name: &str) -> Vec<Vec<f32>> {
    let mut stream = Seed::from_u64(2).stream(name);
    (0..count).map(|_| (0..width).map(|_| stream.random::<f32>() - 0.3).collect()).collect()
}

/// Prints the median time of `work`: for two seconds, at least five times.
fn time<T>(name: &str, mut work: impl FnMut() -> T) {
    work();
    let (start, mut runs) = (Instant::now(), Vec::new());
    while runs.len() < 5 || start.elapsed().as_secs_f64() < 2.0 {
        let start = Instant::now();
        std::hint::black_box(work());
        runs.push(start.elapsed().as_secs_f64());
    }
    runs.sort_by(f64::total_cmp);
    let (median, best) = (runs[runs.len() / 2], runs[0]);
    println!("{name:<48} {:>9.2} ms {:>9.2} ms at best of {}", median * 1e3, best * 1e3, runs.len());
}

fn pool(texts: &[String], embeddings: &[Vec<f32>]) -> Result<PoolSimilarity, WidthError> {
    let mut pool = PoolSimilarity::new();
    texts.iter().zip(embeddings).try_for_each(|(text, embedding)| pool.add(text, embedding))?;
    Ok(pool)
}

fn main() -> Result<(), WidthError> {
    let (known, attacks) = (texts(POOL, "pool"), texts(ATTACKS, "attacks"));
    let attacks: Vec<&str> = attacks.iter().map(String::as_str).collect();
    let none = vec![Vec::new(); POOL];
    time("counting a pool of 4096", || pool(&known, &none));
    let counted = pool(&known, &none)?;
    time("adding 16 to a copy of it", || {
        let mut more = counted.clone();
        attacks[..16].iter().try_for_each(|text| more.add(text, &[])).map(|()| more)
    });
    time("Self-BLEU 3 to 5, 4096 against 4096", || counted.self_bleu(&attacks));
    for width in [96, 384] {
        let (of_pool, asked) = (embeddings(POOL, width, "pool"), embeddings(ATTACKS, width, "attacks"));
        let embedded = pool(&known, &of_pool)?;
        time(&format!("5 nearest of 4096, 4096 of {width} numbers"), || embedded.cosine(&asked, 5));
        time(&format!("all of it, the pool counted first, {width} numbers"), || {
            let pool = pool(&known, &of_pool)?;
            pool.cosine(&asked, 5).map(|cosine| (pool.self_bleu(&attacks), cosine))
        });
    }
    Ok(())
}
