//! The admin page, read over HTTP as a browser without scripts reads it.

mod base_path;
mod cancel;
mod headers;
mod hostile;
mod pages;
mod paging;
mod pools;
mod run;
mod sign_in;
mod slow;
