namespace Hybrid.Runner;

/// <summary>Which job carries out which command.</summary>
internal static class Jobs
{
    /// <summary>Carries out a command; false when it found that something failed and has said so.</summary>
    public static bool Run(ICommand command, CancellationToken stop)
    {
        if (command is DoctorCommand doctor)
        {
            return DoctorJob.Run(doctor);
        }

        if (command is CompletionCommand completion)
        {
            string script = Completion.script(completion.Shell);
            if (completion.Json)
            {
                Json.Write(new { completion.Shell, Script = script });
            }
            else
            {
                Console.Out.Write(script);
            }

            return true;
        }

        if (command is SoakCommand soak)
        {
            // Only the processes that it starts compute.
            return Soak.SoakJob.Run(soak, stop);
        }

        if (command is not (TokenizeCommand or ReportCommand or PlanCommand { Config: null } or BenchPrepareCommand { ImageTokenizer: null }))
        {
            TorchLibrary.Load();
        }

        switch (command)
        {
            case StudyCommand study:
                Study.StudyJob.Run(study, stop);
                break;
            case TrainCommand train:
                TrainJob.Run(train, stop);
                break;
            case EvaluateCommand evaluate:
                EvaluateJob.Run(evaluate, stop);
                break;
            case CompleteCommand complete:
                CompleteJob.Run(complete, stop);
                break;
            case ProbeCommand probe:
                ProbeJob.Run(probe, stop);
                break;
            case AlignCommand align:
                AlignJob.Run(align, stop);
                break;
            case TokenizeCommand tokenize:
                TokenizeJob.Run(tokenize);
                break;
            case PrepareCommand prepare:
                PrepareJob.Run(prepare, stop);
                break;
            case ImageCommand image:
                ImageJob.Run(image, stop);
                break;
            case ImageTrainCommand tokenizer:
                ImageTrainJob.Run(tokenizer, stop);
                break;
            case GenerateCommand generate:
                GenerateJob.Run(generate, stop);
                break;
            case FidCommand fid:
                FidJob.Run(fid, stop);
                break;
            case ConvertCommand convert:
                ConvertJob.Run(convert, stop);
                break;
            case BenchPrepareCommand bench:
                BenchJob.Run(bench, stop);
                break;
            case BenchTrainCommand steps:
                BenchJob.Run(steps, stop);
                break;
            case BenchCollectiveCommand exchanging:
                BenchJob.Run(exchanging, stop);
                break;
            case BenchLoadCommand load:
                BenchJob.Run(load, stop);
                break;
            case BenchGenerateCommand drawing:
                BenchJob.Run(drawing, stop);
                break;
            case ReportCommand report:
                ReportJob.Run(report, stop);
                break;
            case PlanCommand plan:
                PlanJob.Run(plan);
                break;
            case InspectCommand inspect:
                InspectJob.Run(inspect);
                break;
            default:
                throw new InputException($"{command.GetType().Name} is not carried out by this build.");
        }

        return true;
    }
}
