/// Learning rates over a run.
namespace Hybrid

open System

/// The shape of a schedule after its warm-up.
type ScheduleKind =
    /// Half a cosine down to the minimum
    | Cosine
    /// The peak, to the end
    | Constant

/// A schedule, as open_lm computes it: warm-up peak·(step + 1)/W, then cosine from the peak to the minimum at `Steps`.
type Schedule =
    {
        /// What comes after the warm-up
        Kind: ScheduleKind
        /// The rate at the end of the warm-up
        Peak: float
        /// The rate at `Steps`
        Minimum: float
        /// W; 0 begins at the peak
        WarmupSteps: int
        /// Updates of the whole run
        Steps: int
    }

/// The learning rate by step.
module Schedule =

    /// The learning rate of a step, counted from 0.
    let rate (schedule: Schedule) (step: int) : float =
        if step < schedule.WarmupSteps then
            schedule.Peak * float (step + 1) / float schedule.WarmupSteps
        else
            match schedule.Kind with
            | Constant -> schedule.Peak
            | Cosine ->
                let length = max 1 (schedule.Steps - schedule.WarmupSteps)
                let progress = min 1.0 (float (step - schedule.WarmupSteps) / float length)
                let fall = 0.5 * (1.0 + Math.Cos(Math.PI * progress))
                schedule.Minimum + fall * (schedule.Peak - schedule.Minimum)
