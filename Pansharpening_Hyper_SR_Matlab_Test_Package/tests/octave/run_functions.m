function failed = run_functions(folder)
%RUN_FUNCTIONS  Run the function-based tests test_*.m of a folder in Octave, a line each; return how many failed.
%
%   Of MATLAB's framework it knows functions named test*, verifyEqual with AbsTol and RelTol, verifyTrue and
%   verifyError.

failed = 0;
files = dir(fullfile(folder, 'test_*.m'));
for k = 1:numel(files)
    name = files(k).name(1:end - 2);
    functions = feval(name);
    for n = 1:numel(functions)
        label = func2str(functions{n});
        if strncmpi(label, 'test', 4)
            failed = failed + ~run_one([name, '/', label], functions{n});
        end
    end
end
end

function passed = run_one(label, test)
passed = false;
try
    evalc('test(struct())');
    passed = true;
    fprintf('passed %s\n', label);
catch problem
    fprintf('FAILED %s: %s\n', label, problem.message);
end
end
