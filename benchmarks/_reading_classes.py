"""Classes in plain words, for reading without examples: urgency -> what its texts say, a sentence each.

They were written from general knowledge of the two fields, and frozen before they were tried on any text. The method
was chosen on disaster messages and complaints; the emergency room's scenarios were scored once.
"""

from __future__ import annotations

EMERGENCY_ROOM = {
    0: [
        "The patient is not breathing, or cannot breathe.",
        "He is unconscious and does not respond to anything.",
        "Her heart has stopped; we are doing CPR.",
        "My child is having a seizure that does not stop.",
        "The throat is closing, the tongue is swelling, lips are blue.",
        "There is massive bleeding that we cannot stop.",
        "He collapsed and has no pulse.",
        "She was shot or stabbed in the chest and is in shock.",
        "The baby is limp, floppy and grey.",
    ],
    1: [
        "Crushing chest pain that spreads to the arm or jaw, with sweating.",
        "Sudden weakness on one side of the body, face drooping, slurred speech.",
        "He is very short of breath and can only speak in single words.",
        "The worst headache of my life, it came like thunder.",
        "She took an overdose and wants to kill herself.",
        "Vomiting blood or passing black stools, feeling faint.",
        "High fever with a stiff neck, confusion or a rash that does not fade.",
        "A severe burn or a broken bone sticking out of the skin.",
        "He is drowsy, confused and getting worse.",
        "Unbearable pain, ten out of ten.",
    ],
    2: [
        "Bad belly pain for some hours with vomiting.",
        "A high fever that does not go down.",
        "Moderate pain, worse since last night.",
        "Asthma that is tight but I can speak in sentences.",
        "I hit my head, was dizzy and vomited once, but I am awake.",
        "A deep cut that still bleeds a little.",
        "My wrist is swollen and looks crooked after a fall.",
        "Palpitations that come and go.",
    ],
    3: [
        "A sprained ankle, I can walk on it with some pain.",
        "A sore throat and an earache for two days.",
        "A small cut that may need a stitch.",
        "It burns when I pass water.",
        "Mild diarrhoea, I can drink.",
        "Back pain after lifting, it has been there for days.",
        "A minor burn on a finger.",
        "An itchy rash, otherwise well.",
    ],
    4: [
        "I need a repeat prescription.",
        "I want a sick note for work.",
        "A cold with a runny nose for a week.",
        "I would like to have my stitches removed.",
        "A verruca that has been there for months.",
        "It is an old problem and nothing has changed.",
        "Just a question about my medicine, no symptoms.",
        "An insect bite that itches a bit.",
    ],
}

DISASTERS = {
    0: [
        "People are trapped under the rubble and alive, please come and rescue them.",
        "We have injured people and need a doctor and medicine.",
        "My family is missing, we have not found them.",
        "There is a fire in our street.",
        "We are sick, we are hurt, send an ambulance to this address.",
    ],
    1: [
        "We have no food and no water, we are hungry and thirsty.",
        "We sleep in the street and need tents and shelter.",
        "There are many dead bodies here.",
        "Thieves and gangs attack people, we need police.",
        "Please send help to our village, nobody has come.",
    ],
    2: [
        "Aid organisations distributed blankets and supplies to the affected people.",
        "We ask for information about where aid is given out.",
        "Roads and bridges were damaged by the flood.",
        "Clothes, money and transport would help us.",
    ],
    3: [
        "Hello, good morning, thank you for your service.",
        "Is there going to be another earthquake?",
        "I want to know how to register my phone.",
        "The government held a conference on agricultural policy.",
        "What is the news today about the weather?",
        "How can I find work or a school?",
    ],
}
