//! Prints token ids and logits of texts as JSON, for comparison with other implementations:
//! `cargo run --release --example logits -- MODEL TEXT…`

use anyhow::Context;
use triplay::model::{Checkpoint, Compute, Packed, Purpose};

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().context("usage: logits MODEL TEXT…")?;
    let model = Checkpoint::load(folder.as_ref(), &Compute::default())?;
    let decoder = model.decoder(Purpose::Scoring)?;
    let mut all = Vec::new();
    for text in args {
        let ids = model.tokenizer.encode(&text)?;
        let logits = decoder.logits(&decoder.hidden(&Packed::new(&[&ids]))?)?;
        all.push(serde_json::json!({ "ids": ids, "logits": logits.to_vec2::<f32>()? }));
    }
    println!("{}", serde_json::Value::from(all));
    Ok(())
}
