//! Commands whose processes never outlive triplay: a supervisor between triplay and the command, the command's log, and the
//! signals that end triplay. It knows neither stages nor servers.

mod family;
mod interrupt;
pub mod log;
mod service;
mod supervised;
mod supervisor;

pub use interrupt::on_interrupt;
pub use service::{Ended, Service, find_program};
pub use supervised::{Launch, Supervised, own_program};
pub use supervisor::{End, LINGER, SupervisorReport, supervise};
