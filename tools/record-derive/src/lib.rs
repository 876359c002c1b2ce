//! The derive macro of millstream's records.
