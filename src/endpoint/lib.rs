//! The client of models behind servers: asks them within their limits, repeats what failed for the moment, keeps every finished
//! row, and says clearly what cannot be done. It knows neither stages nor roles, and no model of our own.

mod adapter;
mod call;
mod choose;
mod config;
mod embed;
mod endpoint;
mod http;
mod journal;
mod kind;
mod managed;
mod pace;
mod question;
mod rows;
mod sample;
mod score;
#[cfg(test)]
mod scripted;
mod served;
mod server;
#[cfg(test)]
mod tests;
mod tokens;
mod trouble;
mod url;

pub use adapter::unload_adapters;
pub use config::{Api, Budget, Command, Config, Count, Kind, Price, Share, Time, Timeouts};
pub use endpoint::Endpoint;
pub use journal::Journal;
pub use kind::{Capabilities, LogprobsMode, Needs};
pub use question::{
    Choice, Choose, Embed, Message, Model, Prompt, Question, Sample, Sampled, Sampling, Score,
};
pub use rows::Asking;
pub use served::{Progress, Served, Usage};
pub use trouble::{Lack, Trouble};
