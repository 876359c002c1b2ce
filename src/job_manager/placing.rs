//! Which job gets slots and memory, when, and why one still waits.
//!
//! Slots are shared: a job needs as many different slots as its widest vertex has subtasks, however many jobs are in them. Memory is
//! not: a job's whole budget is taken from its TaskManager when it is placed. A job runs in one TaskManager.
//! The order of trying is `queue`'s.

use super::job::{Job, Placement};
use super::manager::TaskManagerBook;
use super::messages::{LoadReport, ToTaskManager};
use super::{
    Attempt, JobId, JobManager, JobState, JobSubmission, SlotIndex, SubmissionError, TaskManagerId, TaskState,
    by_urgency,
};

impl JobManager {
    /// Why a job waits, with figures; `None` when it does not.
    pub fn why_waiting(&self, id: JobId, now_ns: u64) -> Option<String> {
        let job = self.jobs.get(&id)?;
        let asks = format!("asks for {} slots and {}", job.submission.parallelism(), mib(job.submission.memory_bytes));
        match job.state {
            JobState::Initializing => return Some(format!("{asks}; the request is on its way")),
            JobState::Restarting => {
                let in_ms = job.until_ns.unwrap_or(now_ns).saturating_sub(now_ns) / 1_000_000;
                return Some(format!("restarts in {in_ms} ms after: {}", job.remark.as_deref().unwrap_or("a failure")));
            }
            JobState::Created => {}
            _ => return None,
        }
        if self.task_managers.is_empty() {
            return Some(format!("{asks}; no TaskManager has registered"));
        }
        let queue = self.waiting_in_order(now_ns);
        let ahead = queue.iter().take_while(|&&other| other != id).count();
        let offers: Vec<_> = self.task_managers.iter().map(|(tm, book)| self.describe_room(*tm, book)).collect();
        let refusal = job.remark.as_ref().map_or(String::new(), |remark| format!("; last answer: {remark}"));
        Some(format!("{asks}; {}; {ahead} jobs are ahead of it{refusal}", offers.join(", ")))
    }

    pub(super) fn check_submission(&self, submission: &JobSubmission) -> Result<(), SubmissionError> {
        let name = submission.name.clone();
        if submission.vertices.is_empty() || submission.vertices.iter().any(|vertex| vertex.parallelism == 0) {
            return Err(SubmissionError::NoTasks { name });
        }
        let mut live = self.jobs.values().filter(|job| !job.state.has_ended());
        if let Some(other) = live.find(|job| job.submission.name == name) {
            return Err(SubmissionError::NameTaken { name, state: other.state });
        }
        let (waiting, waiting_max) = (self.waiting().count(), self.settings.waiting_jobs_max);
        if waiting >= waiting_max {
            return Err(SubmissionError::QueueFull { name, waiting, waiting_max });
        }
        if self.task_managers.is_empty() { Ok(()) } else { self.check_ever_fits(submission) }
    }

    pub(super) fn on_registration(&mut self, id: TaskManagerId, slot_count: u32, memory_bytes: u64, now_ns: u64) {
        if slot_count == 0 || memory_bytes == 0 {
            let reason =
                format!("{id} has {slot_count} slots and {memory_bytes} bytes of memory: it needs at least 1 of each");
            self.outbox.push((id, ToTaskManager::RegistrationRefused { reason }));
            return;
        }
        if self.task_managers.contains_key(&id) {
            self.lose_task_manager(id, "it registered anew, so its tasks are gone".into(), now_ns);
        }
        let load = LoadReport::default();
        self.task_managers.insert(id, TaskManagerBook { slot_count, memory_bytes, last_heard_ns: now_ns, load });
        self.outbox.push((id, ToTaskManager::RegistrationAccepted));
        for waiting in self.waiting_in_order(now_ns) {
            if let Err(reason) = self.check_ever_fits(&self.jobs[&waiting].submission) {
                self.end(waiting, JobState::Failed, Some(reason.to_string()));
            }
        }
        self.place_waiting(now_ns);
    }

    /// Asks slots for every waiting job that fits, in order.
    pub(super) fn place_waiting(&mut self, now_ns: u64) {
        for id in self.waiting_in_order(now_ns) {
            let job = &self.jobs[&id];
            let may_be_tried = job.until_ns.is_none_or(|not_before_ns| not_before_ns <= now_ns);
            match self.room_for(&job.submission).filter(|_| may_be_tried) {
                Some(task_manager) => self.request_slots(id, task_manager, now_ns),
                // What becomes free from now on is kept for this one.
                None if now_ns - job.waiting_since_ns > self.settings.passed_over_ns_max => return,
                None => {}
            }
        }
    }

    pub(super) fn on_slots_offered(&mut self, id: JobId, attempt: Attempt, slots: Vec<SlotIndex>, now_ns: u64) {
        let Some(job) = self.current(id, attempt).filter(|job| job.state == JobState::Initializing) else { return };
        let asked = job.submission.parallelism() as usize;
        if slots.len() < asked {
            let reason = format!("{} slots were offered where {asked} were asked for", slots.len());
            self.tell(id, ToTaskManager::ReleaseSlots { job: id });
            return self.on_slots_refused(id, attempt, reason, now_ns);
        }
        if let Some(placement) = &mut job.placement {
            placement.slots = slots;
        }
        self.deploy(id);
    }

    pub(super) fn on_slots_refused(&mut self, id: JobId, attempt: Attempt, reason: String, now_ns: u64) {
        let retry_ns = self.settings.slot_request_retry_ns;
        let Some(job) = self.current(id, attempt).filter(|job| job.state == JobState::Initializing) else { return };
        job.placement = None;
        job.remark = Some(reason.clone());
        self.set_state(id, JobState::Created, Some(now_ns.saturating_add(retry_ns)), Some(reason));
    }

    pub(super) fn withdraw_slot_request(&mut self, id: JobId, now_ns: u64) {
        self.tell(id, ToTaskManager::ReleaseSlots { job: id });
        let reason = format!(
            "no answer to the request for slots within {} ms",
            self.settings.slot_request_timeout_ns / 1_000_000
        );
        self.on_slots_refused(id, self.jobs[&id].attempt, reason, now_ns);
    }

    /// Sends every task to its slot. A slot takes subtask i of every vertex.
    pub(super) fn deploy(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let Some(Placement { task_manager, slots }) = &job.placement else { return };
        let (task_manager, slots) = (*task_manager, slots.clone());
        job.tasks = job.fresh_tasks();
        for task in &mut job.tasks {
            let slot = slots[task.address.subtask as usize];
            (task.slot, task.state) = (Some(slot), TaskState::Deploying);
            let restore = job.coordinator.last_completed();
            let submit = ToTaskManager::SubmitTask { task: task.address, attempt: job.attempt, slot, restore };
            self.outbox.push((task_manager, submit));
        }
        self.set_state(id, JobState::Running, None, None);
    }

    fn request_slots(&mut self, id: JobId, task_manager: TaskManagerId, now_ns: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.attempt = Attempt(job.attempt.0 + 1);
        job.placement = Some(Placement { task_manager, slots: Vec::new() });
        let (slot_count, memory_bytes) = (job.submission.parallelism(), job.submission.memory_bytes);
        let request = ToTaskManager::RequestSlots { job: id, attempt: job.attempt, slot_count, memory_bytes };
        self.outbox.push((task_manager, request));
        let until_ns = now_ns.saturating_add(self.settings.slot_request_timeout_ns);
        self.set_state(id, JobState::Initializing, Some(until_ns), None);
    }

    fn waiting(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| job.state == JobState::Created)
    }

    fn waiting_in_order(&self, now_ns: u64) -> Vec<JobId> {
        let mut queue: Vec<&Job> = self.waiting().collect();
        let rank = |job: &Job| (job.submission.urgency(), now_ns.saturating_sub(job.waiting_since_ns));
        queue.sort_by(|left, right| by_urgency(rank(left), rank(right), self.settings.aging_ns));
        queue.into_iter().map(|job| job.id).collect()
    }

    /// The TaskManager with the most free memory among those the job fits in.
    fn room_for(&self, submission: &JobSubmission) -> Option<TaskManagerId> {
        let fits = |(id, book): &(&TaskManagerId, &TaskManagerBook)| {
            book.slot_count >= submission.parallelism() && self.free_bytes(**id, book) >= submission.memory_bytes
        };
        let roomiest = self.task_managers.iter().filter(fits).max_by_key(|(id, book)| self.free_bytes(**id, book));
        roomiest.map(|(id, _)| *id)
    }

    fn free_bytes(&self, id: TaskManagerId, book: &TaskManagerBook) -> u64 {
        let here = |job: &&Job| job.placement.as_ref().is_some_and(|placement| placement.task_manager == id);
        let taken_bytes = self.jobs.values().filter(here).map(|job| job.submission.memory_bytes).sum();
        book.memory_bytes.saturating_sub(taken_bytes)
    }

    fn check_ever_fits(&self, submission: &JobSubmission) -> Result<(), SubmissionError> {
        let (asked, asked_bytes) = (submission.parallelism(), submission.memory_bytes);
        let wide_enough = || self.task_managers.values().filter(|book| book.slot_count >= asked);
        if wide_enough().any(|book| book.memory_bytes >= asked_bytes) {
            return Ok(());
        }
        let name = submission.name.clone();
        Err(match wide_enough().map(|book| book.memory_bytes).max() {
            Some(memory_bytes_max) => SubmissionError::TooLarge { name, asked_bytes, memory_bytes_max },
            None => {
                let slot_count_max = self.task_managers.values().map(|book| book.slot_count).max().unwrap_or(0);
                SubmissionError::TooParallel { name, asked, slot_count_max }
            }
        })
    }

    fn describe_room(&self, id: TaskManagerId, book: &TaskManagerBook) -> String {
        let (free, whole) = (mib(self.free_bytes(id, book)), mib(book.memory_bytes));
        format!("{id} has {} slots and {free} free of {whole}", book.slot_count)
    }
}

/// Bytes for people: whole and tenths of MiB, or bytes where that says more.
fn mib(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{bytes} bytes"),
        _ if bytes.is_multiple_of(MIB) => format!("{} MiB", bytes / MIB),
        _ => format!("{:.1} MiB", bytes as f64 / MIB as f64),
    }
}
