pub mod seed;
pub use seed::Seed;
