(**
---
title: A study's arm of one's own
category: Composing
categoryindex: 3
index: 5
---
*)
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"
(**
# A study's arm of one's own

A study is a list of arms and of claims about them, both records. Here it gets two arms and two claims of its own, and the plan is
written for `hybrid study --config arms.json`. Nothing is trained here; the rule that will judge is tried on made-up losses.
*)
open System.IO
open Hybrid
(** Text of the corpus in a tenth of all sequences, and the random twin of that arm: *)
let light = { StudyArms.pretrained with Name = "replay-light"; Replay = 0.1; Seeds = 3 }
let arms = [ light; StudyArms.randomTwin "replay-light-random" light ]
(** What is claimed of them, and the rule that each claim is judged by: *)
let claim statement against measure rule : Comparison =
    { Source = "Added"; Statement = statement; Arm = light.Name; Against = against; Measure = measure; Rule = rule }

let claims =
    [
        claim "A tenth of text keeps what the model knew." "twin-pretrained" (ArmMeasure.Task "knowledge") Rule.ClearlyHigher
        claim "The twins are the same on image tokens." "replay-light-random" ArmMeasure.Image Rule.Same
    ]
(** Arms of the study that are not wanted are run for no seed. *)
let withoutWords = [ for arm in StudyArms.words 0 -> { arm with Seeds = 0 } ]

let plan =
    { Study.tiny with
        Seeds = 3
        Arms = List.toArray (withoutWords @ arms)
        Comparisons = List.toArray claims
    }

for run in Study.runs plan do
    if run.Plan.Name.StartsWith light.Name then
        printfn $"{run.Name}: {(Study.budgetOf plan run.Plan).Steps} steps"
(*** include-output ***)
(** The last claim on losses of three seeds that are made up: *)
let judged = Comparison.claim claims[1] [| 1.012; 1.034; 0.998 |] [| 1.010; 1.037; 0.999 |]
printfn $"“{judged.Statement}” {Report.verdict judged.Verdict}. {judged.Evidence}"
(*** include-output ***)
(** The plan as a file, which is read back as the same plan: *)
let file = Path.Combine(Path.GetTempPath(), "arms.json")
File.WriteAllText(file, (StudyPlan.toJson plan).ToJsonString())

match StudyPlan.parse (File.ReadAllText file) with
| Ok read when read = plan -> printfn $"{file}: {(Study.runs plan).Length} runs, {claims.Length} claims of its own"
| Ok _ -> failwith "the plan was read back as another one"
| Error errors -> failwith (String.concat "\n" errors)
(*** include-output ***)
