//! The admin page, looked at over HTTP as a browser without scripts does.

mod base_path;
mod cancel;
mod headers;
mod hostile;
mod looking;
mod paging;
mod pools;
mod run;
mod sign_in;
mod slow;
