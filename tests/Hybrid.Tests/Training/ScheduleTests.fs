module Hybrid.Tests.ScheduleTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private drawn (seed: int64) kind : Schedule =
    let chooser = Chooser seed
    let steps = chooser.Int(1, 200)

    {
        Kind = kind
        Peak = chooser.Float(1e-4, 1e-2)
        Minimum = chooser.Float(0.0, 1e-4)
        WarmupSteps = chooser.Int(0, steps)
        Steps = steps
    }

let tests =
    testList
        "Schedule"
        [
            property "cosine is open_lm's formula" (fun seed ->
                let s = drawn seed Cosine

                for step in 0 .. s.Steps - 1 do
                    let expected =
                        if step < s.WarmupSteps then
                            s.Peak * float (step + 1) / float s.WarmupSteps
                        else
                            let e, es = float (step - s.WarmupSteps), float (s.Steps - s.WarmupSteps)
                            s.Minimum + 0.5 * (1.0 + Math.Cos(Math.PI * e / es)) * (s.Peak - s.Minimum)

                    near 0.0 1e-12 $"step {step}" expected (Schedule.rate s step))

            property "constant stays at its peak after the warm-up" (fun seed ->
                let s = drawn seed Constant

                for step in 0 .. s.Steps + 5 do
                    let expected = if step < s.WarmupSteps then s.Peak * float (step + 1) / float s.WarmupSteps else s.Peak
                    near 0.0 1e-12 $"step {step}" expected (Schedule.rate s step))

            property "rates rise to the peak, then fall to the minimum and stay there" (fun seed ->
                let s = drawn seed Cosine
                let rates = Array.init (s.Steps + 20) (Schedule.rate s)
                Expect.all rates (fun r -> r > 0.0 && r <= s.Peak * (1.0 + 1e-12) || r = s.Minimum) "range"
                let warmup, rest = Array.splitAt s.WarmupSteps rates
                Expect.equal warmup (Array.sort warmup) "rises"
                Expect.equal rest (Array.sortDescending rest) "falls"
                Expect.all rates[s.Steps + 1 ..] (fun r -> abs (r - s.Minimum) < 1e-15) "ends at the minimum"

                if s.WarmupSteps > 0 then
                    near 0.0 1e-12 "the last step of the warm-up has the peak" s.Peak rates[s.WarmupSteps - 1])
        ]
