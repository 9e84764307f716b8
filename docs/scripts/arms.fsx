// A study is a list of arms and of claims about them, both records. Here it gets two arms and two claims of its own, and the plan is
// written for `hybrid study --config arms.json`. Nothing is trained here; the rule that will judge is tried on made-up losses.
// Build first: dotnet build src.Runner.CSharp -c Release.
#r "../../src.Runner.CSharp/bin/Release/net10.0/TorchSharp.dll"
#r "../../src.Runner.CSharp/bin/Release/net10.0/Hybrid.Core.dll"

open System.IO
open Hybrid

/// Text of the corpus in a tenth of all sequences, and the random twin of that arm.
let light = { StudyArms.pretrained with Name = "replay-light"; Replay = 0.1; Seeds = 3 }

let arms = [ light; StudyArms.randomTwin "replay-light-random" light ]

let claim statement against measure rule : Comparison =
    {
        Source = "Added"
        Statement = statement
        Arm = "replay-light"
        Against = against
        Measure = measure
        Rule = rule
    }

let claims =
    [
        claim "A tenth of text keeps what the model knew." "twin-pretrained" (ArmMeasure.Task "knowledge") Rule.ClearlyHigher
        claim "The twins are the same on image tokens." "replay-light-random" ArmMeasure.Image Rule.Same
    ]

// Arms of the study that are not wanted are run for no seed.
let withoutWords = [ for arm in StudyArms.words 0 -> { arm with Seeds = 0 } ]

let plan =
    { Study.tiny with
        Seeds = 3
        Arms = List.toArray (withoutWords @ arms)
        Comparisons = List.toArray claims
    }

for run in Study.runs plan do
    printfn "%s: %d steps" run.Name (Study.budgetOf plan run.Plan).Steps

let judged = Comparison.claim claims[1] [| 1.012; 1.034; 0.998 |] [| 1.010; 1.037; 0.999 |]
printfn "%s %s. %s" judged.Statement (Report.verdict judged.Verdict) judged.Evidence

let file = Path.Combine(Path.GetTempPath(), "arms.json")
File.WriteAllText(file, (StudyPlan.toJson plan).ToJsonString())

match StudyPlan.parse (File.ReadAllText file) with
| Ok read when read = plan -> printfn "%s: %d runs, %d claims of its own" file (Study.runs plan).Length claims.Length
| Ok _ -> failwith "the plan was read back as another one"
| Error errors -> failwith (String.concat "\n" errors)
